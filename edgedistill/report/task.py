"""The user's own task on the page and in the verdict: each file's score, its interval, differences, wrong answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import bars
from edgedistill.report.rows import chosen_row, shipped_row
from edgedistill.results.report import Report
from edgedistill.results.row import RIVAL, Row
from edgedistill.results.share import TaskShare
from edgedistill.results.task import FIGURES, TaskFacts, TaskScore, WrongAnswer
from edgedistill.show import show, show_count


@dataclass(frozen=True)
class ScoreLine:
    """A file's row of the table; `others` are its other figures in the order of `TaskView.names`."""

    row: Row
    score: TaskScore
    others: list[str]


@dataclass(frozen=True)
class WrongOnes:
    """A file's wrong answers that are shown, of how many."""

    row: Row
    count: int
    answers: tuple[WrongAnswer, ...]


@dataclass(frozen=True)
class TaskView:
    """The page's section.

    Attributes:
        facts: what the task is.
        about: its rows in a sentence.
        chart: shares with intervals.
        names: of the other figures that any file has, in words.
        lines: a file each.
        to_teacher: whether any file is compared with the teacher's.
        fields: whether the F1 of fields has intervals and differences.
        wrong: files with wrong answers, the recommended one first.
    """

    facts: TaskFacts
    about: str
    chart: Markup | None
    names: list[str]
    lines: list[ScoreLine]
    to_teacher: bool
    fields: bool
    wrong: list[WrongOnes]


def task_view(report: Report, rows: Sequence[Row]) -> TaskView | None:
    """The section; None where there is no task, or no score with a record.

    Args:
        report: all of it.
        rows: its rows in the order of its tables.
    """
    scored = [(row, row.task) for row in rows if row.task is not None]
    if report.task is None or not scored:
        return None
    keys = [key for key in FIGURES if any(score.figures.get(key) is not None for _, score in scored)]
    if any(score.f1 for _, score in scored):
        keys.remove("field_f1")  # it has columns of its own
    lines = [ScoreLine(row, score, [show(score.figures.get(key), "share") for key in keys]) for row, score in scored]
    shares = [(row, TaskShare(score.items, score.share, score.low, score.high)) for row, score in scored]
    level = next((score.share for row, score in scored if row.kind == "float"), None)
    chosen = chosen_row(report)
    wrong = [WrongOnes(row, score.items - score.right, score.wrong) for row, score in scored if score.wrong]
    return TaskView(
        facts=report.task,
        about=about(report.task),
        chart=bars.intervals(shares, f"{report.task.name}: {report.task.metric}", level),
        names=[FIGURES[key] for key in keys],
        lines=lines,
        to_teacher=any(score.to_teacher for _, score in scored),
        fields=any(score.f1 for _, score in scored),
        wrong=sorted(wrong, key=lambda each: each.row is not chosen),
    )


def about(facts: TaskFacts) -> str:
    """What the task is and how it was asked, in two sentences."""
    kinds = {
        "classify": f"one of {show_count(facts.labels or 0)} labels",
        "extract": f"a JSON object of {', '.join(facts.fields) or 'fields'}",
        "text": "a text",
    }
    asked = f"Every file answered the same {show_count(facts.items)}"
    of = f" of {show_count(facts.test_rows)} test rows" if facts.test_rows else " test rows"
    learned = f", with {show_count(facts.learn_rows)} rows to learn from beside them" if facts.learn_rows else ""
    left = (
        f" {show_count(facts.left_out)} rows were left out: too long, or refused by the template."
        if facts.left_out
        else ""
    )
    return f"An answer is {kinds.get(facts.kind, 'a text')}. {asked}{of}{learned}; always the likeliest token.{left}"


def task_sentence(report: Report) -> str | None:
    """Scores of teacher, rival, float model and of each mix's file that ships, in one sentence; None without any."""
    if report.task is None:
        return None
    named = [(row.label, row) for kind in ("teacher", RIVAL, "float") for row in report.rows if row.kind == kind]
    shipped = [(mix, shipped_row(report.rows, mix)) for mix in report.mixes]
    named += [(mix, row) for mix, row in shipped if row is not None]
    words = [f"{name} {show(row.task.share, 'share')}" for name, row in named if row.task is not None]
    if not words:
        return None
    return (
        f"On the task {report.task.name} ({report.task.metric} of {show_count(report.task.items)} rows that no "
        f"training saw): {', '.join(words)}."
    )
