"""A few strokes of SVG: escaped text, lines, marks, axes with round ticks. Sizes are SVG units, about CSS pixels.

Colors are not here: every element carries a class, and page.css gives it the light, dark or printed color.
Each plot is WIDTH units wide, near its size on the page, so its text is as large as the page's small print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from edgedistill.show import THIN, visible

WIDTH = 440.0
# Room that a label is given: on a narrow screen the plots shrink and page.css enlarges their text to 15 units.
CHAR, LINE = 7.4, 16.0


def text(x: float, y: float, words: object, css: str = "", anchor: str = "start") -> str:
    """One line of escaped text; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'class="{css}">{escape(visible(words, lines=False))}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight stroke."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    """A stroke through all points."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, round_: float = 2.0, tip: object = None) -> str:
    """A filled bar with slightly round corners; `tip` is shown when the pointer rests on it."""
    shape = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" rx="{round_:.0f}" '
        f'class="{css}"'
    )
    return f"{shape}>{_tip(tip)}</rect>" if tip is not None else f"{shape}/>"


def mark(x: float, y: float, shape: str, css: str, size: float = 5.0, tip: object = None) -> str:
    """A circle, square, diamond or triangle around (x, y), all of about one area."""
    inner = _tip(tip) if tip is not None else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" class="{css}">{inner}</circle>'
    offsets = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.25), (1.2, 0.95), (-1.2, 0.95)),
    }[shape]
    corners = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in offsets)
    return f'<polygon points="{corners}" class="{css}">{inner}</polygon>'


def picture(parts: Sequence[str], height: float, label: str, width: float = WIDTH) -> Markup:
    """The finished plot; `label` is what a screen reader says instead of it."""
    body = "".join(parts)
    said = escape(visible(label, lines=False), quote=True)
    # Every text that came in went through escape() above.
    return Markup(f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{said}">{body}</svg>')


def shorten(words: object, limit: int) -> str:
    """At most `limit` characters, the cut shown by an ellipsis."""
    flat = visible(words, lines=False)
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip(" ,") + "…"


def plain(value: float) -> str:
    """A tick's number: at most six digits that count, no exponent, a thin space between thousands from 10 000 on."""
    whole = "," if abs(value) >= 10_000 else ""
    text = f"{float(f'{value:.6g}'):{whole}.12f}".rstrip("0").rstrip(".").replace(",", THIN)
    return text.replace("-", "−")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high] for a logarithmic axis: as many of 1, 2, 5 in each power of ten as make 3 to 7,
    if any do.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        all_of_them = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in all_of_them if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
        if len(found) >= 3:
            break
    else:
        return ticks(low, high)
    every = math.ceil(len(found) / 7)
    return found[::every]


@dataclass(frozen=True)
class Frame:
    """A plot's area and its two axes: data [x_low, x_high] x [y_low, y_high] on the rectangle left..right, top..bottom.

    With `y_log` the height is the logarithm; what isn't above y_low then lies on the base line.
    """

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: float = 48.0
    right: float = WIDTH - 22.0
    top: float = 26.0
    bottom: float = 236.0
    y_log: bool = False

    def x(self, value: float) -> float:
        """Where a data x lies."""
        return self.left + (value - self.x_low) / ((self.x_high - self.x_low) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a data y lies; larger is higher up."""
        if self.y_log:
            low, high = math.log(self.y_low), math.log(self.y_high)
            share = (math.log(max(value, self.y_low)) - low) / ((high - low) or 1)
        else:
            share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return self.bottom - share * (self.bottom - self.top)

    def axes(
        self, x_title: str, y_title: str, x_text: Callable[[float], str], y_text: Callable[[float], str]
    ) -> list[str]:
        """Grid lines with their numbers, the base line, and the two titles (the y title stands above the axis,
        unturned).
        """
        parts = [text(0, 11, y_title, "axis")]
        for value in log_ticks(self.y_low, self.y_high) if self.y_log else ticks(self.y_low, self.y_high):
            y = self.y(value)
            parts += [
                line(self.left, y, self.right, y, "grid"),
                text(self.left - 8, y + 4, y_text(value), "tick", "end"),
            ]
        for value in ticks(self.x_low, self.x_high):
            x = self.x(value)
            parts += [
                line(x, self.bottom, x, self.bottom + 4, "base"),
                text(x, self.bottom + 18, x_text(value), "tick", "middle"),
            ]
        parts += [
            line(self.left, self.bottom, self.right, self.bottom, "base"),
            text(self.right, self.bottom + 36, x_title, "axis", "end"),
        ]
        return parts


def _tip(words: object) -> str:
    return f"<title>{escape(visible(words, lines=False))}</title>"
