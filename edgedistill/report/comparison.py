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

from edgedistill.report.recommend import row_troubles, why_none
from edgedistill.report.terminal import STYLES, left_out_note, paper, print_table, speed_cell
from edgedistill.results.chance import guessed_tasks, telling_rows, without_tasks
from edgedistill.results.front import mean_kl, mean_task, task_score
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.results.share import Difference, TaskShare
from edgedistill.results.task import TaskScore
from edgedistill.show import DASH, NATS, show, show_bytes, visible
from edgedistill.store.whole import atomic_write

SCHEMA = "edgedistill.compare/1"
FRONT, CHOSEN = "●", "★"
ORDER = ("teacher", "rival", "float", "rounded", "recovered")
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LEFT = ("", "file", "fits")  # columns of words
WHOLE = 100  # columns in which no number of the table is cut


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows by the size of the largest file of their mix, the largest first, and within a mix in the order of ORDER."""

    def group(row: Row) -> tuple[str, str]:
        return (row.mix, "") if row.mix is not None else ("", row.label)

    sizes: dict[tuple[str, str], int] = {}
    for row in rows:
        sizes[group(row)] = max(sizes.get(group(row), 0), row.file_bytes or 0)
    return sorted(rows, key=lambda row: (-sizes[group(row)], group(row), ORDER.index(row.kind), row.runtime or ""))


def speed_ratio(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times as fast as the float file a file decodes: the median over rounds in which both were timed; None
    without those.
    """
    trials = row.speed.decode.trials
    float_trials = next((other.speed.decode.trials for other in rows if other.kind == "float"), ())
    if not trials or len(trials) != len(float_trials) or not all(float_trials):
        return None
    return statistics.median(own / base for own, base in zip(trials, float_trials, strict=True))


def comparison(
    report: Report, files: Mapping[str, str], places: Mapping[str, str], given: str | None = None
) -> dict[str, Any]:
    """The essentials as JSON types (schema edgedistill.compare/1).

    Args:
        report: what `build_report` gave.
        files: where the files of the bundle lie, by gguf-MIX or onnx-MIX.
        places: other paths, by name: run, report, csv, bundle.
        given: where the model lies that was given, which may be the one to keep.
    Returns:
        schema, the places, files, target, judges, front, recommendation (with the path of its file), why (where there
        is none), and rows in the order of the table, flat: the keys are those of the CSV.
    """
    chosen = report.recommendation
    recommendation = None
    if chosen is not None:
        packed = next((path for key, path in files.items() if key.partition("-")[2] == chosen.mix), None)
        recommendation = chosen.to_json() | {"file": given if chosen.mix is None else packed}
    return {
        "schema": SCHEMA,
        **places,
        "files": dict(files),
        "target": report.target.to_json(),
        "on_target": report.on_target,
        "task": report.task.to_json() if report.task else None,
        "judges": [judge.to_json() for judge in report.judges],
        "front": report.front.to_json(),
        "recommendation": recommendation,
        "why": None if chosen else why_none(report),
        "rows": [flat(row, report) for row in sorted_rows(report.rows)],
    }


def flat(row: Row, report: Report) -> dict[str, Any]:
    """One row with a figure a key, its unit in the key; None for what wasn't measured."""
    clauses = row_troubles(row, report)
    cells: dict[str, Any] = {
        "label": row.label,
        "kind": row.kind,
        "mix": row.mix,
        "runtime": row.runtime,
        "file": row.file,
        "sha256": row.sha256,
        "file_bytes": row.file_bytes,
        "bits_per_weight": row.bits_per_weight,
        "on_front": row.label in report.front.labels,
        "recommended": _is_chosen(row, report),
        "fits": None if clauses is None else not clauses,
        "why_not": "; ".join(clauses or ()),
    }
    if row.task is not None:
        cells |= _share_cells("task", row.task)
        cells |= {f"task_{name}": value for name, value in row.task.figures.items()}
        for name, difference in (("float", row.task.to_float), ("teacher", row.task.to_teacher)):
            cells |= _difference_cells(f"task_minus_{name}", difference)
        if row.task.f1 is not None:
            cells |= {"task_field_f1_low": row.task.f1.low, "task_field_f1_high": row.task.f1.high}
            cells |= _difference_cells("task_field_f1_minus_float", row.task.f1.to_float)
            cells |= _difference_cells("task_field_f1_minus_teacher", row.task.f1.to_teacher)
    for judge in report.judge_names:
        quality, word = row.on(judge), _word(judge)
        cells[f"{word}_perplexity"] = quality.ppl
        cells[f"{word}_kl_mean_nats_per_token"] = quality.student.kl_mean
        cells[f"{word}_kl_p99_nats_per_token"] = quality.student.kl_p99
        cells[f"{word}_same_top_token_share"] = quality.student.top1
    cells["kl_mean_of_texts_nats_per_token"] = mean_kl(row, report.judge_names)
    for name, task in row.tasks.items():
        cells |= _share_cells(f"task_{_word(name)}", task)
    for name, refusals in row.refusals.items():
        cells |= _share_cells(f"refusals_{_word(name)}", refusals)
    decode, prefill = row.speed.decode, row.speed.prefill
    return cells | {
        "decode_tokens_per_s": decode.mean,
        "decode_std_tokens_per_s": decode.std,
        "prefill_tokens_per_s": prefill.mean,
        "prefill_std_tokens_per_s": prefill.std,
        "decode_times_float": speed_ratio(row, report.rows),
        "load_s": row.speed.load_s,
        "peak_rss_bytes": row.speed.peak_rss_bytes,
        "threads": row.speed.threads,
        "busy": row.speed.busy,
    }


def csv_text(report: Report) -> str:
    """One line a row, in the order of the table; a text that a spreadsheet would take for a formula has an apostrophe
    before it.
    """
    rows = [flat(row, report) for row in sorted_rows(report.rows)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def write_csv(report: Report, path: Path) -> None:
    """`csv_text` as a file, left alone where it says that already."""
    text = csv_text(report)
    if not path.is_file() or path.read_bytes() != text.encode():
        atomic_write(path, text)


def render_comparison(report: Report, width: int, color: bool = False) -> str:
    """The recommendation, the table and what its marks mean; `width` columns wide, the table at least 100."""
    out, console = paper(width, color)
    chosen = report.recommendation
    sentence = chosen.sentence if chosen else why_none(report)
    print_table(console, _table(report), WHOLE)
    axes = f"size, tokens/s, KL{', tasks' if _with_tasks(report) and not report.task else ''}"
    if report.task:
        axes += ", the task"
    marks = (
        f"{FRONT} on the Pareto front ({axes}): no other file is as good in all and better in one.  {CHOSEN} "
        "recommended."
    )
    console.print(Text(marks, style="dim"))
    console.print(Text("KL to the float model in nats per token; speed in tokens/s, files timed in turn.", style="dim"))
    if chosen and chosen.rule:
        console.print(Text(visible(chosen.rule, lines=False), style="dim"))
    if any(row.speed.busy for row in report.rows):
        console.print(Text("* timed while the machine was busy with other work", style="dim"))
    for row in sorted_rows(report.rows):
        clauses = row_troubles(row, report)
        if clauses:
            words = f"{row.label} doesn't fit: {'; '.join(clauses)}"
            console.print(Text(visible(words, lines=False), style="yellow"))
    for task in guessed_tasks(report):
        console.print(Text(visible(task.sentence(report.float_name), lines=False), style="yellow"))
    if report.left_out:
        console.print(left_out_note(report))
    console.print()
    console.print(Text(visible(sentence, lines=False), style="bold green" if chosen else "bold red"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _difference_cells(name: str, difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    return {f"{name}": difference.difference, f"{name}_low": difference.low, f"{name}_high": difference.high}


def _share_cells(name: str, share: TaskShare | TaskScore) -> dict[str, Any]:
    return {
        f"{name}_share": share.share,
        f"{name}_low": share.low,
        f"{name}_high": share.high,
        f"{name}_items": share.items,
    }


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return value
    text = visible(value, lines=False)
    return f"'{text}" if text.startswith(FORMULA) else text


def _with_tasks(report: Report) -> bool:
    return any(mean_task(row) is not None for row in telling_rows(report))


def _is_chosen(row: Row, report: Report) -> bool:
    return report.recommendation is not None and row.label == report.recommendation.label


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    short = [name.removeprefix("held-out ") for name in report.judge_names]
    names = ["", "file", "size", *([report.task.metric] if report.task else []), *(f"KL {name}" for name in short)]
    names.append(f"same top {short[0]}" if short else "same top")
    if _with_tasks(report):
        names.append("tasks")
    for name in [*names, "tokens/s", "× float", "fits"]:
        table.add_column(name, justify="left" if name in LEFT else "right", overflow="fold", no_wrap=name == "")
    for row in sorted_rows(report.rows):
        style = "bold green" if _is_chosen(row, report) else STYLES[row.kind]
        table.add_row(*map(Text, _cells(row, report)), style=style)
    return table


def _cells(row: Row, report: Report) -> list[str]:
    """A row of the table."""
    judges, clauses = report.judge_names, row_troubles(row, report)
    front = FRONT if row.label in report.front.labels else " "
    chosen = CHOSEN if _is_chosen(row, report) else " "
    cells = [front + chosen, visible(row.label, lines=False), show_bytes(row.file_bytes)]
    if report.task is not None:
        cells.append(show(task_score(row), "share"))
    cells += [show(row.on(judge).student.kl_mean, NATS) for judge in judges]
    cells.append(show(row.on(judges[0]).student.top1, "share") if judges else DASH)
    if _with_tasks(report):
        guessed = {each.name for each in guessed_tasks(report)}
        cells.append(show(mean_task(without_tasks(row, guessed)), "share"))
    fits = "" if clauses is None else "yes"
    return [*cells, speed_cell(row, row.speed.decode), show(speed_ratio(row, report.rows)), "no" if clauses else fits]
