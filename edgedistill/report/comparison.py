"""What `edgedistill compare` shows and leaves: a table of all files, the front marked; the same as CSV and as JSON.

Rows are sorted by the size of their mix, the largest first, each rounded file beside its recovered twin. Speeds were
taken in turn, so the ratio of a file's speed to the float file's is a median over rounds, in each of which both were
timed.
"""

import csv
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgedistill.report.front import kl_of, task_of, troubles, why_none
from edgedistill.report.rows import figure, timing
from edgedistill.report.terminal import STYLES, paper
from edgedistill.show import DASH, show, visible
from edgedistill.store.whole import atomic_write

SCHEMA = "edgedistill.compare/1"
NATS = "nats per token"
FRONT, CHOSEN = "●", "★"
ORDER = ("teacher", "float", "rounded", "recovered")
QUALITIES = (
    ("ppl", "perplexity"),
    ("kl_student_mean", "kl_mean_nats_per_token"),
    ("kl_student_p99", "kl_p99_nats_per_token"),
    ("top1_student", "same_top_token_share"),
)
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def sorted_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows by the size of the largest file of their mix, the largest first, and within a mix in the order of ORDER."""

    def group(row: Mapping[str, Any]) -> Any:
        return row["mix"] if row["mix"] is not None else ("", row["label"])

    sizes: dict[Any, float] = {}
    for row in rows:
        sizes[group(row)] = max(sizes.get(group(row), 0), row.get("file_bytes") or 0)
    return sorted(
        rows, key=lambda row: (-sizes[group(row)], str(group(row)), ORDER.index(row["kind"]), row["runtime"] or "")
    )


def speed_ratio(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """How many times as fast as the float file a file decodes: the median over rounds in which both were timed; None
    without those.
    """
    trials = _trials(row)
    float_trials = next((_trials(other) for other in rows if other["kind"] == "float"), [])
    if not trials or len(trials) != len(float_trials) or not all(float_trials):
        return None
    return statistics.median(mine / theirs for mine, theirs in zip(trials, float_trials, strict=True))


def _trials(row: Mapping[str, Any]) -> list[float]:
    found = timing(row, "decode_tokens_per_s").get("trials")
    return list(found) if isinstance(found, (list, tuple)) else []


def comparison(
    report: Mapping[str, Any], files: Mapping[str, str], places: Mapping[str, str], given: str | None = None
) -> dict[str, Any]:
    """The essentials as JSON types (schema edgedistill.compare/1).

    Args:
        report: what `build_report` gave.
        files: where the files of the bundle lie, by gguf-MIX or onnx-MIX.
        places: other paths, by name: run, report, csv, bundle.
        given: where the model lies that was given, which may be the one to keep.
    Returns:
        schema, the places, files, target, judges, front, recommendation (with the path of its file), why (where there
        is none), and rows
        in the order of the table, flat: the keys are those of the CSV.
    """
    chosen = report.get("recommendation")
    if chosen is not None:
        made = next((path for key, path in files.items() if key.partition("-")[2] == chosen["mix"]), None)
        chosen = {**chosen, "file": given if chosen["mix"] is None else made}
    rows = [flat(row, report) for row in sorted_rows(report["rows"])]
    return {
        "schema": SCHEMA,
        **places,
        "files": dict(files),
        "target": report["target"],
        "on_target": report["on_target"],
        "judges": report["judges"],
        "front": report.get("front"),
        "recommendation": chosen,
        "why": None if chosen else why_none(report),
        "rows": rows,
    }


def flat(row: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """One row with a figure a key, its unit in the key; None for what wasn't measured."""
    chosen, found = report.get("recommendation") or {}, troubles(row, report)
    flat: dict[str, Any] = {
        key: row[key] for key in ("label", "kind", "mix", "runtime", "file", "sha256", "file_bytes", "bits_per_weight")
    }
    flat |= {
        "on_front": row["label"] in (report.get("front") or {}).get("labels", ()),
        "recommended": row["label"] == chosen.get("label"),
        "fits": None if found is None else not found,
        "why_not": "; ".join(found or ()),
    }
    judges = [judge["name"] for judge in report["judges"]]
    for judge in judges:
        flat |= {f"{_word(judge)}_{name}": figure(row, judge, key) for key, name in QUALITIES}
    flat["kl_mean_of_texts_nats_per_token"] = kl_of(row, judges)
    for name, task in (row.get("tasks") or {}).items():
        flat |= {f"task_{_word(name)}_{key}": (task or {}).get(key) for key in ("share", "low", "high", "items")}
    for name, refusals in (row.get("refusals") or {}).items():
        flat |= {
            f"refusals_{_word(name)}_{key}": (refusals or {}).get(key) for key in ("share", "low", "high", "items")
        }
    for name in ("decode", "prefill"):
        speed = timing(row, f"{name}_tokens_per_s")
        flat |= {f"{name}_tokens_per_s": speed.get("mean"), f"{name}_std_tokens_per_s": speed.get("std")}
    flat |= {
        "decode_times_float": speed_ratio(row, report["rows"]),
        "load_s": row["speed"].get("load_s"),
        "peak_rss_bytes": row["speed"].get("peak_rss_bytes"),
        "threads": row["speed"].get("threads"),
        "busy": row["speed"].get("busy"),
    }
    return flat


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def csv_text(report: Mapping[str, Any]) -> str:
    """One line a row, in the order of the table; a text that a spreadsheet would take for a formula has an apostrophe
    before it.
    """
    rows = [flat(row, report) for row in sorted_rows(report["rows"])]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return value
    text = visible(value, lines=False)
    return f"'{text}" if text.startswith(FORMULA) else text


def write_csv(report: Mapping[str, Any], path: Path) -> None:
    """`csv_text` as a file, left alone where it says that already."""
    text = csv_text(report)
    if not path.is_file() or path.read_bytes() != text.encode():
        atomic_write(path, text)


def render_comparison(report: Mapping[str, Any], width: int, color: bool = False) -> str:
    """The recommendation, the table and what its marks mean; `width` columns wide but at least 80."""
    out, console = paper(width, color)
    chosen = report.get("recommendation")
    sentence = chosen["sentence"] if chosen else why_none(report)
    console.print(_table(report))
    axes = f"size, tokens/s, KL{', tasks' if _with_tasks(report) else ''}"
    marks = (
        f"{FRONT} on the Pareto front ({axes}): no other file is as good in all and better in one.  {CHOSEN} "
        "recommended."
    )
    console.print(Text(marks, style="dim"))
    console.print(Text("KL to the float model in nats per token; speed in tokens/s, files timed in turn.", style="dim"))
    if any(row["speed"].get("busy") for row in report["rows"]):
        console.print(Text("* timed while the machine was busy with other work", style="dim"))
    unfit = [(row, found) for row in sorted_rows(report["rows"]) if (found := troubles(row, report))]
    for row, found in unfit:
        console.print(Text(visible(f"{row['label']} doesn't fit: {'; '.join(found)}", lines=False), style="yellow"))
    if report["left_out"]:
        console.print(
            Text(
                f"{len(report['left_out'])} figures have no record and aren't shown (report.json: left_out).",
                style="yellow",
            )
        )
    console.print()
    console.print(Text(visible(sentence, lines=False), style="bold green" if chosen else "bold red"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _with_tasks(report: Mapping[str, Any]) -> bool:
    return any(task_of(row) is not None for row in report["rows"])


def _table(report: Mapping[str, Any]) -> Table:
    judges = [judge["name"] for judge in report["judges"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    short = [name.removeprefix("held-out ") for name in judges]
    names = ["", "file", "size", *(f"KL {name}" for name in short), f"same top {short[0]}" if short else "same top"]
    names += [*(["tasks"] if _with_tasks(report) else []), "tokens/s", "× float", "fits"]
    for name in names:
        table.add_column(
            name, justify="left" if name in ("", "file", "fits") else "right", overflow="fold", no_wrap=name == ""
        )
    labels = (report.get("front") or {}).get("labels", ())
    chosen = (report.get("recommendation") or {}).get("label")
    for row in sorted_rows(report["rows"]):
        found = troubles(row, report)
        ratio = speed_ratio(row, report["rows"])
        decode = show(timing(row, "decode_tokens_per_s").get("mean")) + ("*" if row["speed"].get("busy") else "")
        cells = [
            (FRONT if row["label"] in labels else " ") + (CHOSEN if row["label"] == chosen else " "),
            visible(row["label"], lines=False),
            show(row["file_bytes"], "bytes"),
            *(show(figure(row, judge, "kl_student_mean"), NATS) for judge in judges),
            show(figure(row, judges[0], "top1_student"), "share") if judges else DASH,
            *([show(task_of(row), "share")] if _with_tasks(report) else []),
            decode,
            show(ratio),
            "" if found is None else "no" if found else "yes",
        ]
        table.add_row(*map(Text, cells), style="bold green" if row["label"] == chosen else STYLES[row["kind"]])
    return table
