"""The report as text for a terminal: verdict first, then a table with one row an artifact. Drawn by rich, no markup
from data.

Below WIDE columns the table is cut in two, quality and speed, because twelve columns don't fit. Below NARROW tables are
drawn no narrower: a number without its last digits would be a wrong number. The commands fold them (cli/page.py).
"""

import io
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgedistill.results.front import task_score
from edgedistill.results.report import Report
from edgedistill.results.row import Row, Timing
from edgedistill.show import DASH, NATS, show, show_bytes, show_seconds, visible

WIDE, NARROW = 132, 80
STYLES = {"teacher": "dim", "rival": "magenta", "float": "dim", "rounded": "yellow", "recovered": "bold"}

Column = tuple[str, Callable[[Row], str]]


def paper(width: int, color: bool) -> tuple[io.StringIO, Console]:
    """A console that writes into a text, the same on every machine: `width` columns; ANSI colors only if asked for."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
        _environ={},  # the caller says how wide and how colorful, not COLUMNS or NO_COLOR
    )
    return out, console


def print_table(console: Console, table: Table, least: int = NARROW) -> None:
    """A table as wide as the console, but at least `least` columns."""
    width = console.width
    console.width = max(width, least)
    console.print(table)
    console.width = width


def render_terminal(report: Report, width: int, color: bool = False) -> str:
    """The verdict, the table and what wasn't shown, `width` columns wide, its tables at least 80; ANSI colors only if
    asked for.
    """
    out, console = paper(width, color)
    print_verdict(console, report)
    console.print()
    first, names, sizes, speeds = report.first_judge, _names(), _sizes(report), _speeds()
    if width >= WIDE:
        title = f"Judged on {first}; KL in nats per token, speed in tokens/s"
        print_table(console, _table(report, title, names + sizes + _qualities(first) + speeds))
    else:
        quality = _table(report, f"Judged on {first}; KL in nats per token", names + _qualities(first))
        size = _table(report, "Size, and speed in tokens/s", names[:1] + sizes + speeds)
        for table in (size, quality) if report.task else (quality, size):
            print_table(console, table)
    for judge in report.judge_names[1:]:
        print_table(console, _table(report, f"Judged on {judge}; KL in nats per token", names + _qualities(judge)))
    if any(row.speed.busy for row in report.rows):
        console.print(Text("* measured while the machine was busy with other work", style="dim"))
    if report.left_out:
        console.print(left_out_note(report))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def print_verdict(console: Console, report: Report) -> None:
    """Whether to ship the student or the teacher, from which teacher to which file, whether it fits, what is wrong with
    it, which to take: as the page's head.
    """
    verdict = report.verdict
    if verdict.contest:
        style = "bold red" if verdict.contest.lost else "bold green"
        console.print(Text(visible(verdict.contest.sentence, lines=False), style=style))
    if verdict.lineage:
        console.print(Text(visible(verdict.lineage, lines=False), style="bold"))
    if verdict.warning:
        console.print(Text(visible(f"Warning: {verdict.warning}", lines=False), style="bold red"))
    console.print(Text(visible(verdict.headline, lines=False), style="bold green" if verdict.fits else "bold red"))
    if report.recommendation:
        console.print(Text(visible(report.recommendation.sentence, lines=False)))
        if report.recommendation.rule:
            console.print(Text(visible(report.recommendation.rule, lines=False), style="dim"))
    for sentence in verdict.sentences:
        console.print(Text(visible(sentence, lines=False)))


def left_out_note(report: Report) -> Text:
    """How many figures aren't shown."""
    words = f"{len(report.left_out)} figures have no record and aren't shown (report.json: left_out)."
    return Text(words, style="yellow")


def speed_cell(row: Row, timing: Timing) -> str:
    """A speed in tokens/s, with a star where the machine was busy."""
    return show(timing.mean) + ("*" if row.speed.busy and timing.mean is not None else "")


def _table(report: Report, title: str, columns: list[Column]) -> Table:
    caption = Text(visible(title, lines=False), style="italic")
    table = Table(box=box.SIMPLE_HEAD, title=caption, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for index, (name, _) in enumerate(columns):
        text_column = name in ("artifact", "runtime")
        table.add_column(name, justify="left" if text_column else "right", overflow="fold", no_wrap=index > 0)
    for row in report.rows:
        table.add_row(*(Text(value(row)) for _, value in columns), style=STYLES[row.kind])
    return table


def _names() -> list[Column]:
    return [
        ("artifact", lambda row: visible(row.label, lines=False)),
        ("runtime", lambda row: visible(row.runtime or DASH, lines=False)),
    ]


def _sizes(report: Report) -> list[Column]:
    """Sizes; the user's own task leads behind the file's."""
    score: list[Column] = [(report.task.metric, lambda row: show(task_score(row), "share"))] if report.task else []
    return [
        ("size", lambda row: show_bytes(row.file_bytes)),
        *score,
        ("bits", lambda row: show(row.bits_per_weight, "bits")),
    ]


def _qualities(judge: str | None) -> list[Column]:
    """Perplexity, KL in nats per token and top-1 agreement, all against the float student, on one judge."""
    return [
        ("ppl", lambda row: show(row.on(judge).ppl, "perplexity")),
        ("KL student", lambda row: show(row.on(judge).student.kl_mean, NATS)),
        ("99 %", lambda row: show(row.on(judge).student.kl_p99, NATS)),
        ("top-1", lambda row: show(row.on(judge).student.top1, "share")),
    ]


def _speeds() -> list[Column]:
    return [
        ("decode", lambda row: speed_cell(row, row.speed.decode)),
        ("prefill", lambda row: speed_cell(row, row.speed.prefill)),
        ("load", lambda row: show_seconds(row.speed.load_s)),
        ("RSS", lambda row: show_bytes(row.speed.peak_rss_bytes)),
    ]
