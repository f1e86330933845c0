"""What the page's template shows beside the report itself: title, key figures, plots, and each part's rows in their
order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgedistill import licences
from edgedistill.report import charts, curves, svg
from edgedistill.report.answers import Answers, side_by_side
from edgedistill.report.lost import Lost, lost_view
from edgedistill.report.plots import Plots, plots_view
from edgedistill.report.rows import chosen_row
from edgedistill.report.tables import PredictionTable, WonBackTable, prediction_table, won_back_table
from edgedistill.report.task import TaskView, task_view
from edgedistill.report.tasks import DifferenceTable, TaskChart, difference_table, task_charts
from edgedistill.report.tiles import Tile, tiles_of
from edgedistill.results.chance import telling_rows
from edgedistill.results.curve import Curve
from edgedistill.results.order import in_order
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.show import show_bytes, show_count

KIND_NAMES = {
    "teacher": "teacher",
    "rival": "teacher in the student's bytes",
    "float": "float student",
    "rounded": "rounded",
    "recovered": "recovered by training on the grid",
}
AS_IS_NAMES = {"teacher": "model as given", "float": "float model"}
AXIS_NAMES = {"file_bytes": "size", "decode_tokens_per_s": "speed", "kl": "KL", "task": "tasks"}
LONGEST_SYSTEM = 240  # characters that are shown of a system message; bundle.json has all of it
MANY = 10  # rows; with more, what is looked up more seldom is behind a fold


@dataclass(frozen=True)
class CurveCharts:
    """A training with its plots; None where nothing was measured."""

    curve: Curve
    loss: Markup | None
    kl: Markup | None


@dataclass(frozen=True)
class Totals:
    """All stages together: seconds, the highest peak memory, and whether an earlier start had made some."""

    seconds: float | None
    peak: int | None
    reused: bool


@dataclass(frozen=True)
class FactList:
    """A short list of names and values."""

    heading: str
    facts: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class View:
    """The names that page.html.j2 uses; every part may be empty, and then has no heading."""

    plots: Plots
    won_back: WonBackTable | None
    prediction_table: PredictionTable | None
    lost: Lost | None
    own_task: TaskView | None
    tasks: list[TaskChart]
    differences: DifferenceTable | None
    answers: list[Answers]
    system: str | None
    curve_charts: list[CurveCharts]
    rows: list[Row]
    many: bool
    front_labels: frozenset[str]
    front_axes: str
    float_name: str
    chips: dict[str, Markup]
    kind_names: dict[str, str]
    title: str
    built: str
    where: str
    tiles: list[Tile]
    licence_name: str | None
    licence_of: str | None
    licence_demands: str
    total: Totals
    fact_lists: list[FactList]
    recipe_text: str | None
    parts: list[tuple[str, str]]


def view(report: Report) -> View:
    """All parts of the page."""
    rows, chosen = in_order(report.rows), chosen_row(report)
    label = chosen.label if chosen else None
    licence = licences.licence_of(report.provenance.license)
    recipe = report.provenance.recipe
    plots = plots_view(report, rows)
    predictions, lost, tasks = prediction_table(report), lost_view(report, rows, chosen), task_charts(rows)
    answers = [side_by_side(sample, rows, report.float_name, label) for sample in report.samples]
    curve_charts = [_curve_charts(curve) for curve in report.curves]
    own_task = task_view(report, rows)
    there = {
        "task": ("The task", own_task),
        "choice": ("Size, speed, quality", plots.quality or plots.speeds),
        "figures": ("All figures", rows),
        "predicted": ("Predicted", predictions),
        "training": ("Training", curve_charts or (report.teach and report.teach.asked is not None)),
        "lost": ("Where it was lost", lost),
        "answers": ("Answers", answers),
        "tasks": ("Tasks and refusals", tasks),
        "made": ("How it was made", True),
        "licence": ("Licence", True),
        "terms": ("Reading it", True),
    }
    return View(
        plots=plots,
        won_back=won_back_table(report),
        prediction_table=predictions,
        lost=lost,
        own_task=own_task,
        tasks=tasks,
        differences=difference_table(in_order(telling_rows(report))),
        answers=answers,
        system=svg.shorten(report.teach.system, LONGEST_SYSTEM) if report.teach and report.teach.system else None,
        curve_charts=curve_charts,
        rows=rows,
        many=len(rows) > MANY,
        front_labels=frozenset(report.front.labels),
        front_axes=_axes(report),
        float_name=report.float_name,
        chips={kind: _chip(kind) for kind in charts.SHAPES},
        kind_names=_kind_names(report),
        title=f"{report.teacher.name or 'A model'} on {report.target.name or 'a device'}",
        built=_built(report),
        where=report.where_measured,
        tiles=tiles_of(report, chosen),
        licence_name=licence.name if licence else report.provenance.license,
        licence_of=report.student.start.name if report.student.start else report.teacher.name,
        licence_demands=licences.demands(report.provenance.license),
        total=_total(report),
        fact_lists=_fact_lists(report),
        recipe_text=json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else None,
        parts=[(anchor, name) for anchor, (name, content) in there.items() if content],
    )


def _curve_charts(curve: Curve) -> CurveCharts:
    return CurveCharts(curve, curves.training_loss(curve), curves.validation_kl(curve))


def _kind_names(report: Report) -> dict[str, str]:
    """What the kinds of rows are called in this report."""
    names = KIND_NAMES | (AS_IS_NAMES if report.student.as_is else {})
    return names if report.rival is None else names | {"rival": report.rival.label}


def _chip(kind: str) -> Markup:
    """The mark of a kind of row, as the plots draw it."""
    return svg.picture([svg.mark(6, 6, charts.SHAPES[kind], f"dot {kind}", 4.4)], 12, "", 12)


def _axes(report: Report) -> str:
    """What the files on the front were compared in."""
    with_tasks = any(row.tasks or row.task for row in telling_rows(report))
    axes = [axis for axis in report.front.axes if axis != "task" or with_tasks]
    names = AXIS_NAMES | ({"task": "the task"} if report.task else {})
    *most, last = [names.get(axis, axis) for axis in axes] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _built(report: Report) -> str:
    """One sentence: what was built, out of what, and for what."""
    teacher, student, goal = report.teacher, report.student, report.target.title or report.target.name
    mixes = len({row.mix for row in report.rows if row.packed})
    device = f", for {goal}" if goal else ""
    name = teacher.name or "a model"
    formats = f"{mixes} number format{'s' if mixes != 1 else ''}" if mixes else "no number format yet"
    weights = f"{show_count(teacher.parameters)} weights in {teacher.layers} layers" if teacher.parameters else ""
    if student.as_is:
        recovered = any(row.kind == "recovered" for row in report.rows)
        how = "rounded and trained on the grid" if recovered else "rounded"
        return f"{name}{f', {weights},' if weights else ''} {how} in {formats}{device}."
    if student.parameters:
        smaller = f"{show_count(student.parameters)} weights in {student.layers} layers"
        if student.start is not None:
            taught = f"taught by {name} ({weights or 'size not known'})"
            return f"{student.start.name} ({smaller}), {taught}, in {formats}{device}."
        return f"A student of {smaller}, distilled from {name} ({weights or 'size not known'}), in {formats}{device}."
    return f"{name}{f', {weights}' if weights else ''}{device}."


def _total(report: Report) -> Totals:
    stages = report.provenance.stages
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    peaks = [stage.peak_rss_bytes for stage in stages if stage.peak_rss_bytes is not None]
    return Totals(sum(seconds) if seconds else None, max(peaks, default=None), any(stage.reused for stage in stages))


def _fact_lists(report: Report) -> list[FactList]:
    """Where from, the machine, the versions."""
    provenance = report.provenance
    origin = {
        "model" if report.student.as_is else "teacher": report.teacher.name,
        "source": report.teacher.source,
        **_start(report),
        "licence": provenance.license or "not known",
        "target": report.target.name,
    }
    machine = tuple(_fact(name, value) for name, value in report.machine.items())
    machine += tuple(_places(provenance.places))
    lists = (
        FactList("Origin", tuple((name, value) for name, value in origin.items() if value)),
        FactList("Machine", machine),
        FactList("Versions", tuple(provenance.versions.items())),
    )
    return [each for each in lists if each.facts]


def _start(report: Report) -> dict[str, str | None]:
    """The model that the student started from, where that isn't the teacher."""
    start = report.student.start
    if start is None:
        return {}
    return {
        "teacher's licence": report.provenance.teacher_license,
        "student started from": start.name,
        "its source": start.source,
    }


def _places(places: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """The GPUs that torch computed on, each with the stages that it computed."""
    stages: dict[str, list[str]] = {}
    for stage, facts in places.items():
        driver = f", driver {facts['driver']}" if facts.get("driver") else ""
        stages.setdefault(f"{facts.get('name', facts['device'])} ({facts['device']}{driver})", []).append(stage)
    return [("computed on", f"{gpu}: {', '.join(names)}") for gpu, names in stages.items()]


def _fact(name: str, value: object) -> tuple[str, str | None]:
    """A fact of the machine, in words."""
    words = name.removesuffix("_bytes").replace("_", " ")
    if name.endswith("_bytes") and isinstance(value, int):
        return words, show_bytes(value)
    if isinstance(value, (dict, list)):
        return words, json.dumps(value, ensure_ascii=False)
    return words, None if value is None else str(value)
