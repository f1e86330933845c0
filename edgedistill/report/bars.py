"""Level strokes, a row each: tokens a second, and shares with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.report.charts import SHAPES
from edgedistill.report.rows import shipped_row, short_name, timing
from edgedistill.show import show, show_spread

ROW = 24.0  # units high
NAMES = 168.0  # room for the names
LONGEST = 22  # letters of a name

Row = Mapping[str, Any]


def speed_bars(rows: Sequence[Row], name: str, predicted: Mapping[str, float | None], title: str) -> Markup | None:
    """One bar a row for `name` ({mean, std}) in tokens/s, with the plan's figure for the target as a tick; None without
    any.
    """
    shown = [row for row in rows if timing(row, name).get("mean") is not None]
    if not shown:
        return None
    targets = {mix: value for mix, value in predicted.items() if value is not None and shipped_row(shown, mix)}
    reaches = [timing(row, name)["mean"] + (timing(row, name).get("std") or 0) for row in shown]
    most = max([*reaches, *targets.values()])
    left, right, top = NAMES, svg.WIDTH - 108.0, 24.0
    width = (right - left) / most if most else 0.0
    parts = [svg.text(0, 11, title, "axis")]
    said = []
    for index, row in enumerate(shown):
        y, mean, std = top + index * ROW, timing(row, name)["mean"], timing(row, name).get("std") or 0.0
        length, reach = mean * width, std * width
        goal = targets.get(row["mix"]) if row is shipped_row(shown, row["mix"]) else None
        words = show_spread(mean, std) + (" busy" if row["speed"].get("busy") else "")
        said.append(f"{row['label']} {words}" + (f", predicted {show(goal)}" if goal is not None else ""))
        parts.append(svg.text(0, y + 14, svg.shorten(short_name(row), LONGEST), "name"))
        parts.append(svg.rect(left, y + 5, length, 12, f"bar {row['kind']}", tip=said[-1]))
        if reach > 1:
            parts.append(svg.line(left + max(0.0, length - reach), y + 11, left + length + reach, y + 11, "whisker"))
        if goal is not None:
            parts.append(svg.line(left + goal * width, y + 2, left + goal * width, y + 20, "goal"))
        parts.append(svg.text(svg.WIDTH, y + 15, words, "value", "end"))
    parts.append(svg.line(left, top + 1, left, top + len(shown) * ROW - 1, "base"))
    return svg.picture(parts, top + len(shown) * ROW + 2, f"{title}: {'; '.join(said)}")


def intervals(rows: Sequence[tuple[Row, Mapping[str, Any]]], title: str, level: float | None) -> Markup | None:
    """A share with its 95 % interval for each row, and the float model's share as an upright line; None without any.

    Args:
        rows: rows of the report, each with {share, low, high, items}.
        level: the share of the float model, if it was asked too.
    """
    if not rows:
        return None
    lows, highs = [found["low"] for _, found in rows], [found["high"] for _, found in rows]
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
    for index, (row, found) in enumerate(rows):
        y = top + index * ROW + ROW / 2
        words = (
            f"{row['label']}: {_percent(found['share'])}, {_percent(found['low'])} to {_percent(found['high'])}, "
            f"{found['items']} items"
        )
        said.append(words)
        parts.append(svg.text(0, y + 4, svg.shorten(short_name(row), LONGEST), "name"))
        parts.append(svg.line(frame.x(found["low"]), y, frame.x(found["high"]), y, f"interval {row['kind']}"))
        parts.append(svg.mark(frame.x(found["share"]), y, SHAPES[row["kind"]], f"dot {row['kind']}", 4.5, words))
        parts.append(svg.text(svg.WIDTH, y + 4, _percent(found["share"]), "value", "end"))
    parts.append(svg.line(left, bottom, right, bottom, "base"))
    return svg.picture(parts, bottom + 20, f"{title}, with 95 % intervals. {'; '.join(said)}")


def _percent(share: float) -> str:
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{text} %".replace("-", "−")
