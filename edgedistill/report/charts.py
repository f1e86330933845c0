"""Quality against size and against speed; marks of files on the report's Pareto front are filled, and a line joins
them. Each gives one inline SVG or None.

A kind of row (teacher, float, rounded, recovered, ...) has one color and one shape everywhere. KL is drawn on a
logarithmic axis where the files differ much, since half the loss is worth as much at 3 bits as at 8.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.report.labels import Box, place
from edgedistill.report.rows import short_name
from edgedistill.results.front import unbeaten
from edgedistill.results.row import LLAMA_CPP, ONNXRUNTIME, Row
from edgedistill.show import NATS, show, show_bytes, show_spread

SHAPES = {"teacher": "triangle", "rival": "triangle", "float": "square", "rounded": "circle", "recovered": "diamond"}
LOG_FROM = 6.0  # KLs that differ by more than this factor are drawn on a logarithmic axis
FEW = 6  # points; a plot of more is higher
CLOSE = 16.0  # units; a rounded and a recovered mark nearer than this share one name, and no arrow fits between them

Spot = tuple[float, float]


@dataclass(frozen=True)
class Ground:
    """What a plot of quality is drawn from.

    Attributes:
        rows: a report's.
        judge: the text whose KL is the height.
        against: what the float model is called.
        front: labels of the rows on the report's front.
    """

    rows: Sequence[Row]
    judge: str
    against: str
    front: frozenset[str]


@dataclass(frozen=True)
class _Point:
    """A row's place: x with its spread, and KL in nats per token."""

    row: Row
    x: float
    spread: float
    kl: float
    ahead: bool  # on the front


@dataclass(frozen=True)
class _Axis:
    """What x is: its title, its name and unit in words, and whether more or less is better (1, -1)."""

    title: str
    name: str
    unit: str
    better: int

    def words(self, x: float) -> str:
        """A value of it."""
        return _bytes_tick(x) if self.better < 0 else svg.plain(x)


SIZE = _Axis("file size; smaller is better", "size", "", -1)
SPEED = _Axis("tokens written a second; more is better", "speed", " tokens/s", 1)


def quality_against_size(ground: Ground) -> Markup | None:
    """KL to the float model over file size, an arrow from each rounded file to its recovered twin; None without any
    point.
    """
    sizes = {row.label: (float(row.file_bytes), 0.0) for row in ground.rows if row.file_bytes}
    return _scatter(ground, sizes, SIZE)


def quality_against_speed(ground: Ground) -> Markup | None:
    """The same over tokens written a second, with the standard deviation over the trials as a level stroke."""
    speeds = {}
    for row in ground.rows:
        decode = row.speed.decode
        if decode.mean is not None:
            speeds[row.label] = (decode.mean, decode.std or 0.0)
    return _scatter(ground, speeds, SPEED)


def compared(rows: Sequence[Row], judge: str, against: str = "float model") -> list[Row]:
    """The rows that a plot of quality shows: packed files with a mix, and a given file, if they have a KL to the float
    model on the judge.

    The float model itself is the zero of the axis, and a float student's teacher is no rendering of it.
    """
    given = ("teacher",) if against == "float model" else ()
    kinds = ("rounded", "recovered", *given)
    return [row for row in rows if row.kind in kinds and row.on(judge).student.kl_mean is not None]


def _scatter(ground: Ground, values: Mapping[str, tuple[float, float]], axis: _Axis) -> Markup | None:
    """The rows at their `values`: x and its spread."""
    points = _points(ground, values)
    if not points:
        return None
    frame = _frame([point.kl for point in points], [x for p in points for x in (p.x - p.spread, p.x + p.spread)])
    at = [(frame.x(point.x), frame.y(point.kl)) for point in points]
    scale = "log scale, " if frame.y_log else ""
    parts = frame.axes(axis.title, f"KL to the {ground.against} in nats; {scale}lower is better", axis.words, svg.plain)
    steps = _steps(_line(points, at, axis), axis.better)
    if steps:
        parts.append(svg.polyline(steps, "front"))
    twins = _twins(points)
    for start, end in twins:
        if abs(at[start][1] - at[end][1]) > CLOSE / 2:  # else it would only show how the same tensors' speed varies
            parts += _arrow(at[start], at[end])
    lengths = [frame.x(frame.x_low + point.spread) - frame.left for point in points]
    reaches = [((x - length, y), (x + length, y)) for (x, y), length in zip(at, lengths, strict=True) if length > 1]
    parts += [svg.line(*start, *end, "spread") for start, end in reaches]
    for index in _drawing_order(points):
        parts.append(_mark(points[index], at[index], axis))
    # Twins that lie together, or that an arrow joins, bear one name.
    unnamed = {start for start, _ in twins}
    named = [index for index in range(len(points)) if index not in unnamed]
    strokes = [*zip(steps, steps[1:], strict=False), *((at[start], at[end]) for start, end in twins), *reaches]
    parts += _names([_name(points[index].row) for index in named], [at[index] for index in named], at, frame, strokes)
    return svg.picture(parts, frame.bottom + 44, _said(points, ground.judge, axis))


def _points(ground: Ground, values: Mapping[str, tuple[float, float]]) -> list[_Point]:
    points = []
    for row in compared(ground.rows, ground.judge, ground.against):
        kl = row.on(ground.judge).student.kl_mean
        if row.label in values and kl is not None:
            points.append(_Point(row, *values[row.label], kl, row.label in ground.front))
    return points


def _line(points: Sequence[_Point], at: Sequence[Spot], axis: _Axis) -> list[Spot]:
    """Where the line of the front goes through, from left to right: those files on it that no other on it beats in this
    plot's two figures, so that the line never turns back.
    """
    ahead = sorted((point.x, index) for index, point in enumerate(points) if point.ahead)
    keys = [(-points[index].kl, axis.better * x) for x, index in ahead]
    return [at[ahead[place][1]] for place in unbeaten(keys)]


def _twins(points: Sequence[_Point]) -> list[tuple[int, int]]:
    """Pairs of a rounded file and its recovered twin, by their places among the points."""
    pairs = []
    for start, point in enumerate(points):
        for end, other in enumerate(points):
            kinds = (point.row.kind, other.row.kind)
            if kinds == ("rounded", "recovered") and point.row.is_twin(other.row):
                pairs.append((start, end))
    return pairs


def _drawing_order(points: Sequence[_Point]) -> list[int]:
    """What is on the front lies on top where marks cover each other."""

    def height(index: int) -> tuple[bool, bool, bool]:
        point = points[index]
        return point.ahead, point.row.kind == "recovered", point.row.runtime == LLAMA_CPP

    return sorted(range(len(points)), key=height)


def _mark(point: _Point, at: Spot, axis: _Axis) -> str:
    x = axis.words(point.x) if axis.better < 0 else f"{show_spread(point.x, point.spread)} tokens/s"
    tip = f"{point.row.label}: {x}, KL {show(point.kl, NATS)}"
    look = f"dot {point.row.kind}{'' if point.ahead else ' behind'}"
    return svg.mark(*at, SHAPES[point.row.kind], look, tip=tip)


def _said(points: Sequence[_Point], judge: str, axis: _Axis) -> str:
    """The plot in words."""
    ahead = sorted((point for point in points if point.ahead), key=lambda point: point.x)
    best = "; ".join(f"{p.row.label}: {axis.words(p.x)}{axis.unit}, KL {show(p.kl, NATS)}" for p in ahead)
    front = f" On the front: {best}." if best else ""
    return f"Quality against {axis.name} on {judge}, {len(points)} files.{front}"


def _frame(kls: Sequence[float], xs: Sequence[float]) -> svg.Frame:
    low, high = min(xs), max(xs)
    pad = (high - low) * 0.12 or abs(high) * 0.2 or 1.0
    left, right = max(0.0, low - pad), high + pad
    bottom = 236.0 if len(kls) <= FEW else 310.0
    positive = [kl for kl in kls if kl > 0]
    if len(positive) > 1 and max(positive) > LOG_FROM * min(positive):
        return svg.Frame(left, right, min(positive) / 1.6, max(positive) * 1.5, bottom=bottom, y_log=True)
    return svg.Frame(left, right, 0.0, _round_up(max(max(kls), 1e-3) * 1.12), bottom=bottom)


def _steps(ahead: Sequence[Spot], better: int) -> list[Spot]:
    """The front as stairs: what lies above it, and on the worse side of x, is beaten by a file on it. `ahead` goes from
    left to right.
    """
    out = list(ahead[:1])
    for (x1, y1), (x2, y2) in zip(ahead, ahead[1:], strict=False):
        # Small files stray more. Until the next larger one, the smaller is still the best; with speed it is the other
        # way round.
        out += [(x2, y1) if better < 0 else (x1, y2), (x2, y2)]
    return out


def _name(row: Row) -> str:
    """What a point is called: its mix is enough, since its kind is its shape."""
    if row.mix:
        return svg.shorten(row.mix, 18) + (", ONNX" if row.runtime == ONNXRUNTIME else "")
    return svg.shorten(short_name(row), 22)


def _names(
    names: Sequence[str],
    anchors: Sequence[Spot],
    marks: Sequence[Spot],
    frame: svg.Frame,
    strokes: Sequence[tuple[Spot, Spot]],
) -> list[str]:
    """A name beside each point where it covers nothing; a thin line leads to those that had to go farther."""
    area = Box(frame.left, frame.top - 10, svg.WIDTH, frame.bottom - 1)
    sizes = [(len(name) * svg.CHAR + 2, svg.LINE) for name in names]
    parts = []
    for name, anchor, box in zip(names, anchors, place(anchors, sizes, area, marks, strokes), strict=True):
        end = box.nearest(anchor)
        if math.dist(anchor, end) > 13:
            parts.append(svg.line(*anchor, *end, "lead"))
        # Set towards the point: with smaller letters than were reckoned with, the name still stands beside it.
        side = "start" if box.left >= anchor[0] else "end" if box.right <= anchor[0] else "middle"
        x = {"start": box.left + 1, "end": box.right - 1, "middle": (box.left + box.right) / 2}[side]
        parts.append(svg.text(x, (box.top + box.bottom) / 2 + 4.2, name, "name", side))
    return parts


def _arrow(start: Spot, end: Spot) -> list[str]:
    """A stroke that stops short of both marks, with a head; nothing where they (nearly) coincide."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length < CLOSE + 2:
        return []
    ux, uy = dx / length, dy / length
    tip = (end[0] - ux * 8, end[1] - uy * 8)
    tail = (start[0] + ux * 7, start[1] + uy * 7)
    wings = [(tip[0] - ux * 6 + side * uy * 3.5, tip[1] - uy * 6 - side * ux * 3.5) for side in (1, -1)]
    return [svg.line(*tail, *tip, "arrow"), svg.polyline([wings[0], tip, wings[1]], "arrow")]


def _round_up(value: float) -> float:
    """The next round number: the axis then ends on a tick."""
    steps = svg.ticks(0, value)
    step = steps[1] if len(steps) > 1 else value
    return math.ceil(value / step - 1e-9) * step


def _bytes_tick(value: float) -> str:
    return show_bytes(value).replace(".0 ", " ") if value else "0"
