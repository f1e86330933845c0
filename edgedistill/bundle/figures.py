"""The measured figures of a model card, as Markdown tables; nothing where nothing was measured."""

from edgedistill.bundle.harmless import text
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.results.share import Difference, TaskShare
from edgedistill.results.task import FIGURES
from edgedistill.show import DASH, NATS, show, show_bytes, show_count

HEADS = "| artifact | runtime | size | perplexity | KL | KL 99 % | same top | decode | prefill | peak RSS |"


def figure_table(report: Report, rows: list[Row]) -> list[str]:
    """The measured table, on the first judge; nothing where nothing was measured.

    Args:
        report: whose figures they are.
        rows: its rows, in the order of the table.
    """
    if not rows:
        return []
    machine = report.machine
    lines = [
        "## Measured",
        "",
        f"Measured {text(report.where_measured)} ({text(machine.get('os'))}). "
        "Every figure is of the packed file in the runtime that is named; report.json of the run holds each "
        "with the file's hash. "
        f"Quality on {_judge(report)}. KL is the divergence from the {report.float_name}'s next-token "
        "distribution, in nats per token "
        "(0: the same; 99 %: what 99 of 100 tokens stay below); same top: the share of tokens at which both "
        "hold the same word likeliest; "
        "decode and prefill in tokens/s.",
        "",
        HEADS,
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [f"| {' | '.join(_cells(row, report.first_judge))} |" for row in rows]
    return [*lines, ""]


def own_task_table(report: Report, rows: list[Row]) -> list[str]:
    """The user's own task with intervals and differences; nothing where there is none."""
    scored = [(row, row.task) for row in rows if row.task is not None]
    if report.task is None or not scored:
        return []
    facts = report.task
    known = [name for name in FIGURES if any(score.figures.get(name) is not None for _, score in scored)]
    against = [f"to the {report.float_name}"]
    if any(score.to_teacher for _, score in scored):
        against.insert(0, "to the teacher")
    heads = [text(facts.metric), *against, *(FIGURES[name] for name in known)]
    lines = [
        f"## The task: {text(facts.name)}",
        "",
        f"{facts.items} test rows that no training saw, answered with the likeliest token each time. 95 % intervals in "
        "brackets; differences in percentage points on the same rows, with intervals that hold for all files at once.",
        "",
        f"| artifact | size | {' | '.join(heads)} |",
        f"|---|---:|{'---:|' * len(heads)}",
    ]
    for row, score in scored:
        share = f"{show(score.share, 'share')} ({show(score.low, 'share')} to {show(score.high, 'share')})"
        pairs = [score.to_teacher, score.to_float][-len(against) :]
        others = [show(score.figures.get(name), "share") for name in known]
        cells = [text(row.label), show_bytes(row.file_bytes), share, *map(_points, pairs), *others]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _points(difference: Difference | None) -> str:
    """'-2.5 (-6.0 to +1.0)', in percentage points."""
    if difference is None:
        return DASH
    own, low, high = (f"{100 * value:+.1f}" for value in (difference.difference, difference.low, difference.high))
    return f"{own} ({low} to {high})"


def task_table(rows: list[Row]) -> list[str]:
    """Tasks and refusals with their 95 % intervals; nothing where none was measured."""
    rows = [row for row in rows if row.tasks or row.refusals]
    if not rows:
        return []
    tasks = list(dict.fromkeys(name for row in rows for name in row.tasks))
    refusals = [name for name in ("unsafe", "safe") if any(name in row.refusals for row in rows)]
    heads = [*(text(name) for name in tasks), *(f"refusals, {name} prompts" for name in refusals)]
    lines = [
        "Multiple choice: share answered right; refusals: share of the prompts refused. 95 % intervals in brackets.",
        "",
        f"| artifact | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for row in rows:
        shares = [*(row.tasks.get(name) for name in tasks), *(row.refusals.get(name) for name in refusals)]
        lines.append(f"| {text(row.label)} | {' | '.join(map(_interval, shares))} |")
    return [*lines, ""]


def _cells(row: Row, judge: str | None) -> list[str]:
    quality, speed = row.on(judge), row.speed
    return [
        text(row.label),
        text(row.runtime),
        show_bytes(row.file_bytes),
        show(quality.ppl, "perplexity"),
        show(quality.student.kl_mean, NATS),
        show(quality.student.kl_p99, NATS),
        show(quality.student.top1, "share"),
        show(speed.decode.mean),
        show(speed.prefill.mean),
        show_bytes(speed.peak_rss_bytes),
    ]


def _judge(report: Report) -> str:
    """The first judge, whose figures the table has: name, size, source."""
    if not report.judges:
        return DASH
    judge = report.judges[0]
    size = f"{show_count(judge.tokens)} tokens" if judge.tokens else ""
    about = ", ".join(part for part in (size, text(judge.source) if judge.source else "") if part)
    return f"{text(judge.name)}{f' ({about})' if about else ''}"


def _interval(share: TaskShare | None) -> str:
    if share is None:
        return DASH
    return f"{show(share.share, 'share')} ({show(share.low, 'share')} to {show(share.high, 'share')})"
