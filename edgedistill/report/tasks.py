"""The page's tasks and refusals: shares with their intervals, and paired differences from the float model."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import bars
from edgedistill.results.row import Row
from edgedistill.results.share import Difference, TaskShare

# Kinds of requests, their words, and whether refusing them more or less often is better.
REFUSALS = (("unsafe", "unsafe prompts", "more"), ("safe", "safe prompts", "fewer"))


@dataclass(frozen=True)
class TaskChart:
    """One task, or one kind of request, in the group "tasks" or "refusals"; `count`: its items."""

    group: str
    name: str
    count: int
    chart: Markup


@dataclass(frozen=True)
class DifferenceTable:
    """A line a file and a column a task; None where the file wasn't asked."""

    names: list[str]
    lines: list[tuple[Row, list[Difference | None]]]


def task_charts(rows: Sequence[Row]) -> list[TaskChart]:
    """Shares with intervals: each task that any row was asked, then refusals."""
    base = next((row for row in rows if row.kind == "float"), None)
    out = []
    for name in dict.fromkeys(name for row in rows for name in row.tasks):
        shares = [(row, row.tasks[name]) for row in rows if name in row.tasks]
        level = base.tasks.get(name) if base else None
        out.append(_chart("tasks", name, f"{name}: share answered right", shares, level))
    for key, words, better in REFUSALS:
        shares = [(row, row.refusals[key]) for row in rows if key in row.refusals]
        level = base.refusals.get(key) if base else None
        out.append(_chart("refusals", words, f"{words} refused; {better} is better", shares, level))
    return [chart for chart in out if chart]


def difference_table(rows: Sequence[Row]) -> DifferenceTable | None:
    """Paired with the float model on the same items; None where nothing was paired."""
    names = list(dict.fromkeys(name for row in rows for name in row.differences))
    lines = [(row, [row.differences.get(name) for name in names]) for row in rows]
    lines = [(row, cells) for row, cells in lines if any(cells)]
    return DifferenceTable(names, lines) if lines else None


def _chart(
    group: str, name: str, title: str, shares: Sequence[tuple[Row, TaskShare]], level: TaskShare | None
) -> TaskChart | None:
    chart = bars.intervals(shares, title, level.share if level else None)
    return TaskChart(group, name, shares[0][1].items, chart) if chart else None
