"""Quality against size and against speed, with the files that no other beats joined by a line. Each gives one inline
SVG or None.

A kind of row (teacher, float, rounded, recovered) has one color and one shape everywhere. KL is drawn on a logarithmic
axis where the files differ much, since half the loss is worth as much at 3 bits as at 8.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.report.labels import Box, place
from edgedistill.report.rows import (
    SAME_KL,
    SAME_SIZE,
    SAME_SPEED,
    coarse,
    figure,
    short_name,
    timing,
    twin_rate,
    undominated,
)
from edgedistill.show import show, show_spread

SHAPES = {"teacher": "triangle", "float": "square", "rounded": "circle", "recovered": "diamond"}
NATS = "nats per token"
LOG_FROM = 6.0  # KLs that differ by more than this factor are drawn on a logarithmic axis
FEW = 6  # points; a plot of more is higher
CLOSE = 16.0  # units; a rounded and a recovered mark nearer than this share one name, and no arrow fits between them

Row = Mapping[str, Any]


def quality_against_size(rows: Sequence[Row], judge: str, against: str = "float model") -> Markup | None:
    """KL to the float model over file size, an arrow from each rounded file to its recovered twin; None without any
    point.
    """
    sizes = {row["label"]: (row["file_bytes"], None) for row in rows if row["file_bytes"]}
    return _scatter(rows, judge, sizes, against, better=-1)


def quality_against_speed(rows: Sequence[Row], judge: str, against: str = "float model") -> Markup | None:
    """The same over tokens written a second, with the standard deviation over the trials as a level stroke."""
    speeds = {}
    for row in rows:
        found = timing(row, "decode_tokens_per_s")
        if found.get("mean") is not None:
            speeds[row["label"]] = (found["mean"], found.get("std"))
    return _scatter(rows, judge, speeds, against, better=1)


def compared(rows: Sequence[Row], judge: str, against: str = "float model") -> list[Row]:
    """The rows that a plot of quality shows: packed files with a mix, and a given file, if they have a KL to the float
    model on the judge.

    The float model itself is the zero of the axis, and a float student's teacher is no rendering of it.
    """
    kinds = ("rounded", "recovered", *(("teacher",) if against == "float model" else ()))
    return [row for row in rows if row["kind"] in kinds and figure(row, judge, "kl_student_mean") is not None]


def _scatter(
    rows: Sequence[Row], judge: str, values: Mapping[str, tuple[float, float | None]], against: str, better: int
) -> Markup | None:
    """The rows at their `values` (and spread); `better` is 1 where more is better, -1 where less is."""
    points = [row for row in compared(rows, judge, against) if row["label"] in values]
    if not points:
        return None
    kls = [figure(row, judge, "kl_student_mean") for row in points]
    xs = [values[row["label"]][0] for row in points]
    spreads = [values[row["label"]][1] or 0.0 for row in points]
    frame = _frame(kls, [x + side * spread for x, spread in zip(xs, spreads, strict=True) for side in (-1, 1)])
    at = [(frame.x(x), frame.y(kl)) for x, kl in zip(xs, kls, strict=True)]
    ahead = _ahead(points, rows, kls, xs, better)
    x_title = "file size; smaller is better" if better < 0 else "tokens written a second; more is better"
    x_text = _bytes_tick if better < 0 else svg.plain
    scale = "log scale, " if frame.y_log else ""
    parts = frame.axes(x_title, f"KL to the {against} in nats; {scale}lower is better", x_text, svg.plain)
    # The line goes through those alone that are ahead to the last digit, so that it never turns back.
    line = undominated({str(index): (kls[index], -better * xs[index]) for index in ahead})
    steps = _steps([at[index] for index in ahead if str(index) in line], better)
    parts.append(svg.polyline(steps, "front"))
    # A rounded and a recovered file are twins if mix and runtime are the same.
    twins = [
        (start, end)
        for start, row in enumerate(points)
        for end, other in enumerate(points)
        if row["kind"] == "rounded"
        and other["kind"] == "recovered"
        and (row["mix"], row["runtime"]) == (other["mix"], other["runtime"])
    ]
    for start, end in twins:
        if abs(at[start][1] - at[end][1]) > CLOSE / 2:  # else it would only show how the same tensors' speed varies
            parts += _arrow(at[start], at[end])
    lengths = [frame.x(frame.x_low + spread) - frame.left for spread in spreads]
    reaches = [((x - length, y), (x + length, y)) for (x, y), length in zip(at, lengths, strict=True) if length > 1]
    parts += [svg.line(*start, *end, "spread") for start, end in reaches]
    order = sorted(
        range(len(points)),
        key=lambda i: (i in ahead, points[i]["kind"] == "recovered", points[i]["runtime"] == "llama.cpp"),
    )
    for index in order:  # what is ahead lies on top where marks cover each other
        row, (x, y) = points[index], at[index]
        shown = x_text(xs[index]) if better < 0 else f"{show_spread(xs[index], spreads[index])} tokens/s"
        tip = f"{row['label']}: {shown}, KL {show(kls[index], NATS)}"
        parts.append(
            svg.mark(x, y, SHAPES[row["kind"]], f"dot {row['kind']}{'' if index in ahead else ' behind'}", tip=tip)
        )
    # Twins that lie together, or that an arrow joins, bear one name.
    unnamed = {start for start, _ in twins}
    named = [index for index in range(len(points)) if index not in unnamed]
    strokes = [*zip(steps, steps[1:], strict=False), *((at[start], at[end]) for start, end in twins), *reaches]
    parts += _names([_name(points[index]) for index in named], [at[index] for index in named], at, frame, strokes)
    rate = "" if better < 0 else " tokens/s"
    best = "; ".join(f"{points[i]['label']}: {x_text(xs[i])}{rate}, KL {show(kls[i], NATS)}" for i in ahead)
    axis = "size" if better < 0 else "speed"
    said = (
        f"Quality against {axis} on {judge}, {len(points)} files. On the front, where none is beaten in both: {best}."
    )
    return svg.picture(parts, frame.bottom + 44, said)


def _ahead(
    points: Sequence[Row], rows: Sequence[Row], kls: Sequence[float], xs: Sequence[float], better: int
) -> list[int]:
    """The points that no other beats by more than measuring can tell, from left to right."""
    figures = {}
    for index, (row, kl, x) in enumerate(zip(points, kls, xs, strict=True)):
        other = coarse(x, SAME_SIZE) if better < 0 else -coarse(twin_rate(row, rows) or x, SAME_SPEED)
        figures[str(index)] = (coarse(kl, SAME_KL), other)
    return sorted((int(name) for name in undominated(figures)), key=lambda index: xs[index])


def _frame(kls: Sequence[float], xs: Sequence[float]) -> svg.Frame:
    low, high = min(xs), max(xs)
    pad = (high - low) * 0.12 or abs(high) * 0.2 or 1.0
    left, right = max(0.0, low - pad), high + pad
    bottom = 236.0 if len(kls) <= FEW else 310.0
    positive = [kl for kl in kls if kl > 0]
    if len(positive) > 1 and max(positive) > LOG_FROM * min(positive):
        return svg.Frame(left, right, min(positive) / 1.6, max(positive) * 1.5, bottom=bottom, y_log=True)
    return svg.Frame(left, right, 0.0, _round_up(max(max(kls), 1e-3) * 1.12), bottom=bottom)


def _steps(ahead: Sequence[tuple[float, float]], better: int) -> list[tuple[float, float]]:
    """The front as stairs: what lies above it, and on the worse side of x, is beaten by a file on it. `ahead` goes from
    left to right.
    """
    out = [ahead[0]]
    for (x1, y1), (x2, y2) in zip(ahead, ahead[1:], strict=False):
        # Small files stray more. Until the next larger one, the smaller is still the best; with speed it is the other
        # way round.
        out += [(x2, y1) if better < 0 else (x1, y2), (x2, y2)]
    return out


def _name(row: Row) -> str:
    """What a point is called: its mix is enough, since its kind is its shape."""
    if row["mix"]:
        return svg.shorten(row["mix"], 18) + (", ONNX" if row["runtime"] == "onnxruntime" else "")
    return svg.shorten(short_name(row), 22)


def _names(
    names: Sequence[str],
    anchors: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, float]],
    frame: svg.Frame,
    strokes: Sequence[tuple[tuple[float, float], tuple[float, float]]],
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


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> list[str]:
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
    return show(value, "bytes").replace(".0 ", " ") if value else "0"
