"""What `edgedistill recover` shows at its end: on each held-out text the float model, each mix rounded and recovered.

Judged on the packed files. `won back` is the share of rounding's KL, and of its rise in perplexity, that training took
away.
"""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgedistill.report.rows import figure
from edgedistill.report.terminal import STYLES, paper
from edgedistill.show import show, visible

SCHEMA = "edgedistill.recover/1"
FIGURES = (("ppl", "ppl"), ("kl", "kl_student_mean"), ("kl_p99", "kl_student_p99"), ("top1", "top1_student"))
NATS = "nats per token"


def recovery_rows(report: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The figures as JSON types (schema edgedistill.recover/1).

    Args:
        report: what `build_report` gave.
        files: where the shipped files lie, by gguf-MIX or onnx-MIX.
    Returns:
        files; and rows, one a file and judge: label, kind, mix, runtime, bytes, judge, ppl, kl, kl_p99, top1, and of a
        recovered one recovered_kl and recovered_ppl, None where rounding lost nothing.
    """
    rows = []
    for row in report["rows"]:
        for judge in report["judges"]:
            name = judge["name"]
            found = {key: figure(row, name, source) for key, source in FIGURES}
            if row["kind"] == "recovered":
                share = report["recovered"].get(row["mix"], {}).get(name, {}) if row["runtime"] == "llama.cpp" else {}
                found |= {"recovered_kl": share.get("kl_share"), "recovered_ppl": share.get("ppl_share")}
            facts = {key: row[key] for key in ("label", "kind", "mix", "runtime")}
            rows.append({**facts, "bytes": row["file_bytes"], "judge": name, **found})
    return {"schema": SCHEMA, "files": dict(files), "rows": rows, "report": dict(report)}


def render_recovery(found: Mapping[str, Any], width: int, color: bool = False) -> str:
    """The verdict on each mix, a table a judge, and where the files are; `width` columns wide but at least 80."""
    out, console = paper(width, color)
    for sentence in found["report"]["verdict"]["sentences"]:
        console.print(Text(visible(sentence, lines=False)))
    for judge in found["report"]["judges"]:
        console.print()
        console.print(_table(judge, [row for row in found["rows"] if row["judge"] == judge["name"]]))
    for key, path in found["files"].items():
        console.print(Text(f"{key}  {visible(path, lines=False)}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _table(judge: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> Table:
    title = Text(
        visible(f"{judge['name']}, {judge['tokens']:,} tokens; KL to the float model in nats per token", lines=False),
        "italic",
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("file", "size", "ppl", "KL", "99 %", "same top", "won back: KL", "ppl"):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold", no_wrap=name != "file")
    for row in rows:
        won = [
            show(row[key], "share") if row["kind"] == "recovered" else "" for key in ("recovered_kl", "recovered_ppl")
        ]
        cells = [
            visible(row["label"], lines=False),
            show(row["bytes"], "bytes"),
            show(row["ppl"], "perplexity"),
            show(row["kl"], NATS),
            show(row["kl_p99"], NATS),
            show(row["top1"], "share"),
            *won,
        ]
        table.add_row(*map(Text, cells), style=STYLES[row["kind"]])
    return table
