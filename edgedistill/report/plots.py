"""The page's first part: quality against size and speed for each text, and the speeds as bars."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import bars, charts
from edgedistill.results.measurement import JudgedText
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.show import show_bytes, show_rate


@dataclass(frozen=True)
class QualityPlots:
    """The plots of one text."""

    judge: JudgedText
    charts: list[Markup]


@dataclass(frozen=True)
class Plots:
    """All plots, and what their legend must explain.

    Attributes:
        quality: by text; `speeds`: the bars.
        kinds: kinds of rows that the plots of quality show.
        has_pairs: whether there are rounded and recovered files.
        zero: size and speed of the float model, which is the zero of the plots.
        has_goals: whether the plan foretold a speed.
    """

    quality: list[QualityPlots]
    speeds: list[Markup]
    kinds: list[str]
    has_pairs: bool
    zero: str
    has_goals: bool


def plots_view(report: Report, rows: Sequence[Row]) -> Plots:
    """The plots of a report's rows, which stand in the order of its tables."""
    quality = [_of_judge(report, rows, judge) for judge in report.judges]
    shown = [row for judge in report.judge_names for row in charts.compared(rows, judge, report.float_name)]
    kinds = {row.kind for row in shown}
    decode = {mix: planned.predicted_decode_tokens_per_s for mix, planned in report.mixes.items()}
    prefill = {mix: planned.predicted_prefill_tokens_per_s for mix, planned in report.mixes.items()}
    speeds = [
        bars.speed_bars(rows, "decode", decode, "decode: tokens written a second"),
        bars.speed_bars(rows, "prefill", prefill, "prefill: tokens read a second"),
    ]
    return Plots(
        quality=[plots for plots in quality if plots.charts],
        speeds=[chart for chart in speeds if chart],
        kinds=[kind for kind in charts.SHAPES if kind in kinds],
        has_pairs={"rounded", "recovered"} <= kinds,
        zero=_zero(rows),
        has_goals=any(goal is not None for goal in [*decode.values(), *prefill.values()]),
    )


def _of_judge(report: Report, rows: Sequence[Row], judge: JudgedText) -> QualityPlots:
    ground = charts.Ground(rows, judge.name, report.float_name, frozenset(report.front.labels))
    plots = (charts.quality_against_size(ground), charts.quality_against_speed(ground))
    return QualityPlots(judge, [chart for chart in plots if chart])


def _zero(rows: Sequence[Row]) -> str:
    """Size and speed of the float model, as far as they were measured."""
    row = next((row for row in rows if row.kind == "float"), None)
    if row is None:
        return ""
    facts = [show_bytes(row.file_bytes)] if row.file_bytes else []
    if row.speed.decode.mean is not None:
        facts.append(show_rate(row.speed.decode.mean))
    return ", ".join(facts)
