"""A few strokes of SVG: escaped text, lines, marks, linear axes with round ticks. Sizes are SVG units, about CSS pixels.

Colors are not here: every element carries a class, and page.css gives it the light, dark or printed color.
Each plot is WIDTH units wide, near its size on the page, so its text is as large as the page's small print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from edgedistill.records import visible

WIDTH = 400.0
CHAR = 6.2  # mean width of a character of 11.5 units in a sans serif; only used to keep labels inside


def text(x: float, y: float, words: object, css: str = "", anchor: str = "start") -> str:
    """One line of escaped text; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(visible(words, lines=False))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight stroke."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    """A stroke through all points."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str) -> str:
    """A filled bar with slightly round corners."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" rx="2" class="{css}"/>'


def mark(x: float, y: float, shape: str, css: str, size: float = 5.0) -> str:
    """A circle, square or diamond around (x, y)."""
    if shape == "square":
        return rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8, css)
    if shape == "diamond":
        reach = size * 1.2
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in ((0, -reach), (reach, 0), (0, reach), (-reach, 0)))
        return f'<polygon points="{corners}" class="{css}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" class="{css}"/>'


def picture(parts: Sequence[str], height: float, label: str) -> Markup:
    """The finished plot; `label` is what a screen reader says."""
    body = "".join(parts)
    said = escape(visible(label, lines=False), quote=True)
    # Every text that came in went through escape() above.
    return Markup(f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{said}">{body}</svg>')


def shorten(words: object, limit: int) -> str:
    """At most `limit` characters, the cut shown by an ellipsis."""
    flat = visible(words, lines=False)
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip(" ,") + "…"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Frame:
    """A plot's area and its two linear axes: data [x_low, x_high] x [y_low, y_high] on the rectangle left..right, top..bottom."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: float = 44.0
    right: float = WIDTH - 22.0
    top: float = 26.0
    bottom: float = 216.0

    def x(self, value: float) -> float:
        """Where a data x lies."""
        return self.left + (value - self.x_low) / ((self.x_high - self.x_low) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a data y lies; larger is higher up."""
        return self.bottom - (value - self.y_low) / ((self.y_high - self.y_low) or 1) * (self.bottom - self.top)

    def axes(self, x_title: str, y_title: str, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> list[str]:
        """Grid lines with their numbers, the base line, and the two titles (the y title stands above the axis, unturned)."""
        parts = [text(0, 11, y_title, "axis")]
        for value in ticks(self.y_low, self.y_high):
            y = self.y(value)
            parts += [line(self.left, y, self.right, y, "grid"), text(self.left - 8, y + 4, y_text(value), "tick", "end")]
        for value in ticks(self.x_low, self.x_high):
            parts.append(text(self.x(value), self.bottom + 17, x_text(value), "tick", "middle"))
        parts += [line(self.left, self.bottom, self.right, self.bottom, "base"), text(self.right, self.bottom + 33, x_title, "axis", "end")]
        return parts


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in the same order of height, at least `gap` apart and within [low, high] where that fits."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
