"""Where the names of a plot's points go, so that none covers another name, a mark or a line.

Each name has some places around its point, near ones first; the cheapest is taken, point by point, and then again with
all the others in place until nothing moves. The same points always give the same places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Stroke = tuple[Point, Point]
ROUNDS = 6
RADII = (9.0, 15.0, 24.0, 36.0, 52.0)
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 295, 115, 245)  # degrees; 0 is right, 90 is above


@dataclass(frozen=True)
class Box:
    """A rectangle from (left, top) to (right, bottom); y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def outside(self, other: "Box") -> float:
        """How far it sticks out of the other, all sides together."""
        return (
            max(0.0, other.left - self.left)
            + max(0.0, self.right - other.right)
            + max(0.0, other.top - self.top)
            + max(0.0, self.bottom - other.bottom)
        )

    def crossed(self, start: Point, end: Point) -> float:
        """The length of the stroke from `start` to `end` that lies inside (Liang and Barsky 1984)."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        enter, leave = 0.0, 1.0
        for delta, low, high in (
            (dx, self.left - start[0], self.right - start[0]),
            (dy, self.top - start[1], self.bottom - start[1]),
        ):
            if delta == 0:
                if low > 0 or high < 0:
                    return 0.0
                continue
            first, last = sorted((low / delta, high / delta))
            enter, leave = max(enter, first), min(leave, last)
        return max(0.0, leave - enter) * math.hypot(dx, dy)

    def nearest(self, point: Point) -> Point:
        """The point of the box that is nearest to the given one."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)


def place(
    anchors: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    marks: Sequence[Point],
    strokes: Sequence[Stroke],
) -> list[Box]:
    """A box for each name.

    Args:
        anchors: the points that are named.
        sizes: width and height of each name.
        area: what the boxes must stay in.
        marks: all marks of the plot, named or not.
        strokes: lines that a name had better not cover.
    """
    dots = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    choices = [_choices(anchor, size) for anchor, size in zip(anchors, sizes, strict=True)]
    placed: list[Box | None] = [None] * len(anchors)
    for _ in range(ROUNDS):
        before = list(placed)
        for index, found in enumerate(choices):
            others = [box for number, box in enumerate(placed) if number != index and box is not None]
            there = [
                (at, box)
                for number, (at, box) in enumerate(zip(anchors, placed, strict=True))
                if number != index and box is not None
            ]
            leads = [(at, box.nearest(at)) for at, box in there]

            def cost(
                choice: tuple[Box, float],
                others: list[Box] = others,
                leads: list[Stroke] = leads,
                at: Point = anchors[index],
            ) -> float:
                box, effort = choice
                lead = (at, box.nearest(at))
                return (
                    effort
                    + 50 * box.outside(area)
                    + 3 * sum(box.overlap(other) for other in others)
                    + 2 * sum(box.overlap(dot) for dot in dots)
                    + sum(box.crossed(*stroke) for stroke in strokes)
                    + 2 * sum(box.crossed(*other) for other in leads)
                    + 2 * sum(other.crossed(*lead) for other in others)
                )

            placed[index] = min(found, key=cost)[0]
        if placed == before:
            break
    return [box for box in placed if box is not None]


def _choices(anchor: Point, size: tuple[float, float]) -> list[tuple[Box, float]]:
    """Boxes around a point and what each costs for being far away or unusual."""
    (x, y), (width, height) = anchor, size
    out = []
    for radius in RADII:
        for rank, angle in enumerate(ANGLES):
            dx, dy = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
            # The box touches the circle on the side that looks at the point.
            left = x + dx * radius - width * (1 - _unit(dx)) / 2
            top = y + dy * radius - height * (1 - _unit(dy)) / 2
            out.append((Box(left, top, left + width, top + height), (radius - RADII[0]) * 0.9 + rank * 0.5))
    return out


def _unit(value: float) -> float:
    return max(-1.0, min(1.0, value * 1.6))
