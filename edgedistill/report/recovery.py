"""What `edgedistill recover` shows at its end: on each held-out text the float model, each mix rounded and recovered.

Judged on the packed files. `won back` is the share of rounding's KL, and of its rise in perplexity, that training took
away.
"""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgedistill.report.terminal import STYLES, paper, print_table
from edgedistill.results.measurement import JudgedText, WonBack
from edgedistill.results.report import Report
from edgedistill.results.row import LLAMA_CPP, Row
from edgedistill.show import NATS, show, show_bytes, show_count, visible

SCHEMA = "edgedistill.recover/1"
COLUMNS = ("file", "size", "ppl", "KL", "99 %", "same top", "won back: KL", "ppl")


def recovery_rows(report: Report, files: Mapping[str, str]) -> dict[str, Any]:
    """The figures as JSON types (schema edgedistill.recover/1).

    Args:
        report: what `build_report` gave.
        files: where the shipped files lie, by gguf-MIX or onnx-MIX.
    Returns:
        files; and rows, one a file and judge: label, kind, mix, runtime, bytes, judge, ppl, kl, kl_p99, top1, and of a
        recovered one recovered_kl and recovered_ppl, None where rounding lost nothing.
    """
    rows = [_flat(row, judge, report) for row in report.rows for judge in report.judge_names]
    return {"schema": SCHEMA, "files": dict(files), "rows": rows, "report": report.to_json()}


def render_recovery(report: Report, files: Mapping[str, str], width: int, color: bool = False) -> str:
    """The verdict on each mix, a table a judge, and where the files are; `width` columns wide, tables at least 80."""
    out, console = paper(width, color)
    for sentence in report.verdict.sentences:
        console.print(Text(visible(sentence, lines=False)))
    for judge in report.judges:
        console.print()
        print_table(console, _table(judge, report))
    for key, path in files.items():
        console.print(Text(f"{key}  {visible(path, lines=False)}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _flat(row: Row, judge: str, report: Report) -> dict[str, Any]:
    quality = row.on(judge)
    cells = {
        "label": row.label,
        "kind": row.kind,
        "mix": row.mix,
        "runtime": row.runtime,
        "bytes": row.file_bytes,
        "judge": judge,
        "ppl": quality.ppl,
        "kl": quality.student.kl_mean,
        "kl_p99": quality.student.kl_p99,
        "top1": quality.student.top1,
    }
    if row.kind == "recovered":
        share = _won_back(row, judge, report)
        cells |= {"recovered_kl": share.kl_share, "recovered_ppl": share.ppl_share}
    return cells


def _won_back(row: Row, judge: str, report: Report) -> WonBack:
    """Of a recovered file in llama.cpp."""
    shares = report.recovered.get(row.mix or "", {}) if row.runtime == LLAMA_CPP else {}
    return shares.get(judge, WonBack())


def _table(judge: JudgedText, report: Report) -> Table:
    words = f"{judge.name}, {show_count(judge.tokens)} tokens; KL to the float model in nats per token"
    title = Text(visible(words, lines=False), "italic")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold", no_wrap=name != "file")
    for row in report.rows:
        table.add_row(*map(Text, _cells(row, judge.name, report)), style=STYLES[row.kind])
    return table


def _cells(row: Row, judge: str, report: Report) -> list[str]:
    quality = row.on(judge)
    cells = [
        visible(row.label, lines=False),
        show_bytes(row.file_bytes),
        show(quality.ppl, "perplexity"),
        show(quality.student.kl_mean, NATS),
        show(quality.student.kl_p99, NATS),
        show(quality.student.top1, "share"),
    ]
    if row.kind != "recovered":
        return [*cells, "", ""]
    share = _won_back(row, judge, report)
    return [*cells, show(share.kl_share, "share"), show(share.ppl_share, "share")]
