"""Tasks at which the float model only guesses: what a file loses on them tells nothing of the file.

A float model is at chance where the 95 % interval of its share (Wilson) reaches down to the share that guessing gives:
the mean over the questions of 1 / options. Refusals have no such share.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.results.share import TaskShare
from edgedistill.show import show


@dataclass(frozen=True)
class Guessed:
    """A task, the float model's share of right answers with its interval, and the share that guessing gives."""

    name: str
    share: TaskShare
    chance: float

    def sentence(self, float_name: str) -> str:
        """One line for the report."""
        shares = [show(value, "share") for value in (self.share.share, self.share.low, self.share.high, self.chance)]
        own, low, high, chance = shares
        figures = f"{own} right, {low} to {high}; guessing gives {chance}"
        return f"{self.name}: the {float_name} is at chance ({figures}), so it tells nothing."


def guessed_tasks(report: Report) -> list[Guessed]:
    """The tasks at which the report's float model is at chance; none where no float model or no chance is known."""
    base = next((row for row in report.rows if row.kind == "float" and row.tasks), None)
    if base is None:
        return []
    chances = {each.name: each.chance for each in report.task_sets if each.chance is not None}
    guessed = [Guessed(name, share, chances[name]) for name, share in base.tasks.items() if name in chances]
    return [each for each in guessed if each.share.low <= each.chance]


def telling_rows(report: Report) -> list[Row]:
    """The report's rows without the tasks at which the float model guesses."""
    names = {each.name for each in guessed_tasks(report)}
    return [without_tasks(row, names) for row in report.rows]


def without_tasks(row: Row, names: Collection[str]) -> Row:
    """A row without some tasks, and without its differences on them."""
    tasks = {name: share for name, share in row.tasks.items() if name not in names}
    differences = {name: difference for name, difference in row.differences.items() if name not in names}
    over_rival = {name: difference for name, difference in row.over_rival.items() if name not in names}
    return replace(row, tasks=tasks, differences=differences, over_rival=over_rival)
