"""Two tables of the page: what was won back by training on the grid, and what was predicted against what was
measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.report.rows import mixes_in_order
from edgedistill.results.measurement import WonBack
from edgedistill.results.report import Prediction, Report

PREDICTION_NAMES = {
    "file": "file size",
    "memory": "memory in use",
    "decode": "decode, tokens/s",
    "prefill": "prefill, tokens/s",
}
NEAR = (0.8, 1.25)  # ratios of measured to predicted that aren't marked


@dataclass(frozen=True)
class WonBackTable:
    """A line a mix, a column group a judge."""

    judges: list[str]
    lines: list[tuple[str, list[WonBack]]]


@dataclass(frozen=True)
class PredictionCell:
    """One quantity of one mix; `unit` as `show` takes it; `off`: more than a quarter."""

    predicted: float | None
    measured: float | None
    unit: str
    ratio: str | None
    off: bool


@dataclass(frozen=True)
class PredictionTable:
    """A line a mix, a column group a quantity; a quantity that nobody knows has no column."""

    names: list[str]
    lines: list[tuple[str, list[PredictionCell | None]]]


def won_back_table(report: Report) -> WonBackTable | None:
    """What training took away of rounding's loss; None where nothing was recovered."""
    recovered = {mix: shares for mix, shares in report.recovered.items() if shares}
    if not recovered:
        return None
    judges = list(dict.fromkeys(judge for shares in recovered.values() for judge in shares))
    lines = []
    for mix in mixes_in_order(report.rows, list(recovered)):
        lines.append((mix, [recovered[mix].get(judge, WonBack()) for judge in judges]))
    return WonBackTable(judges, lines)


def prediction_table(report: Report) -> PredictionTable | None:
    """What was foretold and what was measured; None where neither is there."""
    there = [each for each in report.predictions if each.measured is not None or each.predicted is not None]
    if not there:
        return None
    whats = [what for what in PREDICTION_NAMES if any(each.what == what for each in there)]
    mixes = list(dict.fromkeys(each.mix for each in there))
    lines = [(mix, [_cell(there, mix, what) for what in whats]) for mix in mixes_in_order(report.rows, mixes)]
    return PredictionTable([PREDICTION_NAMES[what] for what in whats], lines)


def _cell(predictions: Sequence[Prediction], mix: str, what: str) -> PredictionCell | None:
    entry = next((each for each in predictions if (each.mix, each.what) == (mix, what)), None)
    if entry is None:
        return None
    unit = entry.unit if entry.unit == "bytes" else ""  # tokens/s stand in the heading
    if entry.measured is None or not entry.predicted:
        return PredictionCell(entry.predicted, entry.measured, unit, None, False)
    ratio = entry.measured / entry.predicted
    low, high = NEAR
    return PredictionCell(entry.predicted, entry.measured, unit, f"{ratio:.2f}", not low <= ratio <= high)
