"""The training curves: each takes a curve and gives one inline SVG, or None where nothing was measured."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.results.curve import Curve
from edgedistill.show import NATS, show, show_count

MAX_POINTS = 240  # of a training curve; more can't be seen at this width
BOTTOM = 160.0

Point = tuple[float, float]


def training_loss(curve: Curve) -> Markup | None:
    """The training loss of one stage over its steps; None where no finite point exists."""
    points = _thin(_points([(point.step, point.loss) for point in curve.points]))
    if not points:
        return None
    frame = _curve_frame(points)
    parts = frame.axes("step", f"training loss, {NATS}", svg.plain, svg.plain)
    parts.append(svg.polyline([(frame.x(step), frame.y(value)) for step, value in points], "curve loss"))
    said = f"Training loss of {curve.stage}, from {show(points[0][1], NATS)} to {show(points[-1][1], NATS)} {NATS}"
    return svg.picture(parts, frame.bottom + 44, said)


def validation_kl(curve: Curve) -> Markup | None:
    """The KL, or what else `measure` names, on held-out text over the steps, with the level to beat and the best
    checkpoint; None where nothing was measured.

    The level is plain rounding's where the curve tells it (`rounded`), else where the training began (`start`).
    """
    points = _points([(point.step, point.kl) for point in curve.validation])
    if not points:
        return None
    measure = curve.measure or "KL"
    level = curve.level
    frame = _curve_frame(points if level is None else [*points, (points[0][0], level)], zero=True)
    parts = frame.axes("step", f"{measure} on held-out text, {NATS}", svg.plain, svg.plain)
    at = [(frame.x(step), frame.y(value)) for step, value in points]
    parts.append(svg.polyline(at, "curve kl"))
    parts += [svg.mark(x, y, "circle", "dot kl", 2.6) for x, y in at]
    said = f"Validation {measure} of {curve.stage}"
    words: list[tuple[float, float, str, str, str]] = []
    best = curve.best
    if best is not None and best.step is not None and best.kl is not None:
        x, y = frame.x(best.step), frame.y(best.kl)
        parts.append(svg.mark(x, y, "circle", "dot best", 5.0))
        anchor = "end" if x > (frame.left + frame.right) / 2 else "start"
        height = y + 20 if y + 20 < frame.bottom - 4 else y - 11
        words.append((x + (2 if anchor == "end" else -2), height, f"best {show(best.kl, NATS)}", "value", anchor))
        said += f", best {show(best.kl, NATS)} at step {show_count(best.step)}"
    if level is not None:
        name = "plain rounding" if curve.rounded else "began at"
        y = frame.y(level)
        parts.insert(0, svg.line(frame.left, y, frame.right, y, "start"))
        below = y + 17 if at[-1][1] <= y else y - 7  # on the side where the curve doesn't end
        if any(abs(below - other) < svg.LINE and side == "end" for _, other, _, _, side in words):
            below = y - 7 if below > y else y + 17
        words.append((frame.right, below, f"{name} {show(level, NATS)}", "name", "end"))
        said += f", {name} {show(level, NATS)}"
    parts += [svg.text(*word) for word in words]
    return svg.picture(parts, frame.bottom + 44, said)


def _points(pairs: Sequence[tuple[float | None, float | None]]) -> list[Point]:
    """The pairs without those that lack a number."""
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _curve_frame(points: Sequence[Point], zero: bool = False) -> svg.Frame:
    values, steps = [value for _, value in points], [step for step, _ in points]
    low, high = (0.0 if zero else min(values)), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return svg.Frame(min(steps), max(steps), low if zero or low == 0 else low - pad, high + pad, bottom=BOTTOM)


def _thin(points: list[Point]) -> list[Point]:
    """At most MAX_POINTS, each the mean of its neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[index : index + size] for index in range(0, len(points), size)] if points else []
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group)) for group in groups
    ]
