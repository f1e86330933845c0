"""The report's plots: quality against size, tokens/s, training curves. Each takes report rows and gives one inline SVG or None.

A kind of row (teacher, float, rounded, recovered) has one color everywhere, a runtime one shape.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgedistill.records import show, show_spread
from edgedistill.report import svg
from edgedistill.report.rows import figure, shipped_row, timing

SHAPES = {"llama.cpp": "circle", "onnxruntime": "square", "torch": "diamond"}
NATS = "nats per token"
MAX_POINTS = 240  # of a training curve; more can't be seen at this width

Row = Mapping[str, Any]


def quality_against_size(rows: Sequence[Row], judge: str) -> Markup | None:
    """KL to the float student over file size, an arrow from each rounded file to its recovered twin; None without any point."""
    points = [row for row in rows if row["file_bytes"] and figure(row, judge, "kl_student_mean") is not None]
    if not points:
        return None
    kls = [figure(row, judge, "kl_student_mean") for row in points]
    sizes = [row["file_bytes"] for row in points]
    room = 1.12  # above the highest point
    frame = svg.Frame(0, _round_up(max(sizes) * 1.05), 0, _round_up(max(max(kls), 1e-3) * room), bottom=216)
    at = [(frame.x(size), frame.y(kl)) for size, kl in zip(sizes, kls, strict=True)]
    parts = frame.axes("file size", f"KL to the float student, {NATS}; lower is better", _bytes_tick, _plain_tick)
    for start, row in enumerate(points):
        for end, other in enumerate(points):
            pair = row["kind"] == "rounded" and other["kind"] == "recovered"
            if pair and row["mix"] == other["mix"] and row["runtime"] == other["runtime"]:
                parts += _arrow(at[start], at[end])
    # What ships in llama.cpp lies on top where marks cover each other.
    order = sorted(range(len(points)), key=lambda i: (points[i]["kind"] == "recovered", points[i]["runtime"] == "llama.cpp"))
    for row, (x, y) in ((points[index], at[index]) for index in order):
        parts.append(svg.mark(x, y, SHAPES.get(row["runtime"], "circle"), f"dot {row['kind']}"))
    parts += _labels(frame, points, at)
    return svg.picture(parts, frame.bottom + 42, f"Quality against size on {judge}")


def speed_bars(rows: Sequence[Row], name: str, predicted: Mapping[str, float | None], title: str) -> Markup | None:
    """One bar a row for `name` ({mean, std}) in tokens/s, with the plan's figure for the target as a tick; None without any."""
    shown = [row for row in rows if timing(row, name).get("mean") is not None]
    if not shown:
        return None
    targets = {mix: value for mix, value in predicted.items() if value is not None}
    reaches = [timing(row, name)["mean"] + (timing(row, name).get("std") or 0) for row in shown]
    most = max(reaches + [value for mix, value in targets.items() if shipped_row(shown, mix)])
    step, top, right = 38.0, 34.0, svg.WIDTH - 96
    parts = [svg.text(0, 11, title, "axis")]
    for index, row in enumerate(shown):
        y, mean, std = top + index * step, timing(row, name)["mean"], timing(row, name).get("std") or 0.0
        length, reach = (mean / most * right, std / most * right) if most else (0.0, 0.0)
        busy = ", busy" if row["speed"].get("busy") else ""
        parts.append(svg.text(0, y + 6, svg.shorten(row["label"], 38), "small"))
        parts.append(svg.text(svg.WIDTH, y + 6, show_spread(mean, std) + busy, "value", "end"))
        parts.append(svg.rect(0, y + 12, length, 10, f"bar {row['kind']}"))
        if reach:
            parts.append(svg.line(length - reach, y + 17, length + reach, y + 17, "whisker"))
        goal = targets.get(row["mix"]) if row is shipped_row(shown, row["mix"]) else None
        if goal is not None:
            x = goal / most * right
            parts.append(svg.line(x, y + 9, x, y + 25, "goal"))
            parts.append(svg.text(max(x, length + reach) + 7, y + 21, f"predicted {show(goal)}", "tick"))
    return svg.picture(parts, top + len(shown) * step - 8, title)


def training_loss(curve: Mapping[str, Any]) -> Markup | None:
    """The training loss of one stage over its steps; None where no finite point exists."""
    points = _thin([(p["step"], p["loss"]) for p in curve.get("points") or [] if _finite(p.get("step"), p.get("loss"))])
    if not points:
        return None
    frame = _curve_frame(points)
    parts = frame.axes("step", f"training loss, {NATS}", _plain_tick, _plain_tick)
    parts.append(svg.polyline([(frame.x(step), frame.y(value)) for step, value in points], "curve loss"))
    return svg.picture(parts, frame.bottom + 42, f"Training loss of {curve.get('stage')}")


def validation_kl(curve: Mapping[str, Any]) -> Markup | None:
    """The KL on held-out text over the steps, with the level to beat and the best checkpoint; None where nothing was measured.

    The level is plain rounding's where the curve tells it (`rounded`), else where the training began (`start`).
    """
    points = [(p["step"], p["kl"]) for p in curve.get("validation") or [] if _finite(p.get("step"), p.get("kl"))]
    if not points:
        return None
    name = "plain rounding" if curve.get("rounded") else "began at"
    level = (curve.get("rounded") or curve.get("start") or {}).get("kl")
    best = curve.get("best") or {}
    frame = _curve_frame(points + ([(points[0][0], level)] if _finite(level) else []), zero=True)
    parts = frame.axes("step", f"KL on held-out text, {NATS}", _plain_tick, _plain_tick)
    at = [(frame.x(step), frame.y(value)) for step, value in points]
    parts.append(svg.polyline(at, "curve kl"))
    parts += [svg.mark(x, y, "circle", "dot kl", 2.6) for x, y in at]
    if level is not None and _finite(level):
        y = frame.y(level)
        parts.insert(0, svg.line(frame.left, y, frame.right, y, "start"))
        below = y + 15 if at[-1][1] <= y else y - 7  # on the side where the curve doesn't end
        parts.append(svg.text(frame.right, below, f"{name} {show(level, NATS)}", "small", "end"))
    if _finite(best.get("step"), best.get("kl")):
        x, y = frame.x(best["step"]), frame.y(best["kl"])
        parts.append(svg.mark(x, y, "circle", "dot best", 5.0))
        anchor = "end" if x > (frame.left + frame.right) / 2 else "start"
        height = y + 18 if y + 18 < frame.bottom - 4 else y - 11
        parts.append(svg.text(x + (2 if anchor == "end" else -2), height, f"best {show(best['kl'], NATS)}", "value", anchor))
    return svg.picture(parts, frame.bottom + 42, f"Validation KL of {curve.get('stage')}")


def _labels(frame: svg.Frame, points: Sequence[Row], at: Sequence[tuple[float, float]]) -> list[str]:
    """A name beside each point, moved up or down until none covers another; a thin line leads to those that moved."""
    parts = []
    wanted = [y for _, y in at]
    heights = svg.spread_out(wanted, 15, frame.top + 4, frame.bottom - 9)
    for row, (x, y), height in zip(points, at, heights, strict=True):
        words = svg.shorten(row["label"], 30)
        fits_right = x + 14 + len(words) * svg.CHAR < svg.WIDTH
        edge, anchor = (x + 14, "start") if fits_right else (x - 14, "end")
        if abs(height - y) > 4:
            parts.append(svg.line(x + (6 if fits_right else -6), y, edge + (-2 if fits_right else 2), height, "lead"))
        parts.append(svg.text(edge, height + 4, words, "small", anchor))
    return parts


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> list[str]:
    """A stroke that stops short of both marks, with a head; nothing where they (nearly) coincide."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length < 18:
        return []
    ux, uy = dx / length, dy / length
    tip = (end[0] - ux * 8, end[1] - uy * 8)
    tail = (start[0] + ux * 8, start[1] + uy * 8)
    wings = [(tip[0] - ux * 7 + side * uy * 4, tip[1] - uy * 7 - side * ux * 4) for side in (1, -1)]
    return [svg.line(*tail, *tip, "arrow"), svg.polyline([wings[0], tip, wings[1]], "arrow")]


def _curve_frame(points: Sequence[tuple[float, float]], zero: bool = False) -> svg.Frame:
    values, steps = [value for _, value in points], [step for step, _ in points]
    low, high = (0.0 if zero else min(values)), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return svg.Frame(min(steps), max(steps), low if zero or low == 0 else low - pad, high + pad, bottom=164)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS, each the mean of its neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[index : index + size] for index in range(0, len(points), size)] if points else []
    return [(sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group)) for group in groups]


def _finite(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def _round_up(value: float) -> float:
    """The next round number: the axis then ends on a tick."""
    steps = svg.ticks(0, value)
    step = steps[1] if len(steps) > 1 else value
    return math.ceil(value / step - 1e-9) * step


def _plain_tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _bytes_tick(value: float) -> str:
    return show(value, "bytes") if value else "0"
