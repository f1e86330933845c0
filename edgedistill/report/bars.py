"""Level strokes, a row each: tokens a second, and shares with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.report.charts import SHAPES
from edgedistill.report.rows import shipped_row, short_name
from edgedistill.results.row import Row
from edgedistill.results.share import TaskShare
from edgedistill.show import show, show_spread

ROW = 24.0  # units high
NAMES = 168.0  # room for the names
LONGEST = 22  # letters of a name


@dataclass(frozen=True)
class _Bar:
    """A row's speed and its standard deviation, tokens/s."""

    row: Row
    mean: float
    std: float


def speed_bars(rows: Sequence[Row], test: str, predicted: Mapping[str, float | None], title: str) -> Markup | None:
    """One bar a row for its speed in tokens/s, with the plan's figure for the target as a tick; None without any.

    Args:
        rows: a report's.
        test: "decode" or "prefill".
        predicted: the plan's figure by mix.
        title: of the plot.
    """
    bars = _bars(rows, test)
    if not bars:
        return None
    shown = [bar.row for bar in bars]
    goals = {mix: value for mix, value in predicted.items() if value is not None and shipped_row(shown, mix)}
    most = max([*(bar.mean + bar.std for bar in bars), *goals.values()])
    left, right, top = NAMES, svg.WIDTH - 108.0, 24.0
    width = (right - left) / most if most else 0.0
    parts = [svg.text(0, 11, title, "axis")]
    said = []
    for index, bar in enumerate(bars):
        y, row = top + index * ROW, bar.row
        length, reach = bar.mean * width, bar.std * width
        goal = goals.get(row.mix or "") if row is shipped_row(shown, row.mix or "") else None
        words = show_spread(bar.mean, bar.std) + (" busy" if row.speed.busy else "")
        said.append(f"{row.label} {words}" + (f", predicted {show(goal)}" if goal is not None else ""))
        parts.append(svg.text(0, y + 14, svg.shorten(short_name(row), LONGEST), "name"))
        parts.append(svg.rect(left, y + 5, length, 12, f"bar {row.kind}", tip=said[-1]))
        if reach > 1:
            parts.append(svg.line(left + max(0.0, length - reach), y + 11, left + length + reach, y + 11, "whisker"))
        if goal is not None:
            parts.append(svg.line(left + goal * width, y + 2, left + goal * width, y + 20, "goal"))
        parts.append(svg.text(svg.WIDTH, y + 15, words, "value", "end"))
    parts.append(svg.line(left, top + 1, left, top + len(bars) * ROW - 1, "base"))
    return svg.picture(parts, top + len(bars) * ROW + 2, f"{title}: {'; '.join(said)}")


def intervals(rows: Sequence[tuple[Row, TaskShare]], title: str, level: float | None) -> Markup | None:
    """A share with its 95 % interval for each row, and the float model's share as an upright line; None without any.

    Args:
        rows: rows of the report, each with {share, low, high, items}.
        level: the share of the float model, if it was asked too.
    """
    if not rows:
        return None
    lows, highs = [share.low for _, share in rows], [share.high for _, share in rows]
    low, high = max(0.0, min(lows) - 0.02), min(1.0, max(highs) + 0.02)
    left, right, top = NAMES, svg.WIDTH - 56.0, 24.0
    bottom = top + len(rows) * ROW
    frame = svg.Frame(low, high, 0, 1, left=left, right=right, top=top, bottom=bottom)
    parts = [svg.text(0, 11, title, "axis")]
    for value in svg.ticks(low, high, 4):
        parts += [
            svg.line(frame.x(value), top, frame.x(value), bottom, "grid"),
            svg.text(frame.x(value), bottom + 15, _percent(value), "tick", "middle"),
        ]
    if level is not None:
        parts.append(svg.line(frame.x(level), top, frame.x(level), bottom, "start"))
    said = []
    for index, (row, share) in enumerate(rows):
        y = top + index * ROW + ROW / 2
        words = (
            f"{row.label}: {_percent(share.share)}, {_percent(share.low)} to {_percent(share.high)}, "
            f"{share.items} items"
        )
        said.append(words)
        parts.append(svg.text(0, y + 4, svg.shorten(short_name(row), LONGEST), "name"))
        parts.append(svg.line(frame.x(share.low), y, frame.x(share.high), y, f"interval {row.kind}"))
        parts.append(svg.mark(frame.x(share.share), y, SHAPES[row.kind], f"dot {row.kind}", 4.5, words))
        parts.append(svg.text(svg.WIDTH, y + 4, _percent(share.share), "value", "end"))
    parts.append(svg.line(left, bottom, right, bottom, "base"))
    return svg.picture(parts, bottom + 20, f"{title}, with 95 % intervals. {'; '.join(said)}")


def _bars(rows: Sequence[Row], test: str) -> list[_Bar]:
    """The rows that were timed."""
    bars = []
    for row in rows:
        timing = row.speed.decode if test == "decode" else row.speed.prefill
        if timing.mean is not None:
            bars.append(_Bar(row, timing.mean, timing.std or 0.0))
    return bars


def _percent(share: float) -> str:
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{text} %".replace("-", "−")
