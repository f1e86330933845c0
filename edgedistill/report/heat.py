"""Where a file strays from the float model: each matrix's relative error by layer and kind of matrix, and the worst
ones by name.
"""

import math
import re
import statistics
from collections.abc import Sequence

from markupsafe import Markup

from edgedistill.report import svg
from edgedistill.results.measurement import LayerError

STEPS = 7  # shades
LAYER = re.compile(r"(?:^|\.)(?:layers|blk|h|blocks)\.\d+\.")
NAMES = 92.0  # room for the kinds' names
ORDER = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")


def kind_of(tensor: str) -> str:
    """What a tensor is called within its layer: 'q_proj' of 'model.layers.3.self_attn.q_proj.weight'."""
    within = LAYER.split(tensor)[-1].removesuffix(".weight")
    return within.rpartition(".")[2] or within


def scale_of(entries: Sequence[LayerError]) -> list[float] | None:
    """The STEPS + 1 edges of the shades, from a round number below the least error to one above the largest; None
    without any error.
    """
    errors = [error for which in ("rounded", "recovered") for error, _ in _errors(entries, which)]
    if not errors:
        return None
    low, high = min(errors), max(errors)
    if high <= low:
        low, high = 0.0, high or 1.0
    step = (high - low) / STEPS
    power = 10.0 ** math.floor(math.log10(step))
    steps = (factor * power for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12))
    step = next(step for step in steps if step * STEPS + _floor(low, step) >= high)
    start = _floor(low, step)
    return [start + step * index for index in range(STEPS + 1)]


def heatmap(entries: Sequence[LayerError], which: str, edges: Sequence[float], title: str) -> Markup | None:
    """One square a matrix, a column a layer and a row a kind; darker (in a dark page: brighter) is farther off. None
    without any.

    Args:
        entries: of a report's layers, of one mix.
        which: "rounded" or "recovered".
        edges: of `scale_of`, the same for all maps that are compared.
    """
    cells = {(kind_of(e.tensor), e.layer): (error, e) for error, e in _errors(entries, which) if e.layer is not None}
    if not cells:
        return None
    kinds = sorted({kind for kind, _ in cells}, key=_place)
    layers = max(layer for _, layer in cells) + 1
    side = (svg.WIDTH - NAMES) / layers
    high = min(16.0, max(11.0, side))
    top = 24.0
    parts = [svg.text(0, 11, title, "axis")]
    for row, kind in enumerate(kinds):
        y = top + row * (high + 2)
        parts.append(svg.text(NAMES - 8, y + high / 2 + 4, svg.shorten(kind, 12), "name", "end"))
        for layer in range(layers):
            if (kind, layer) in cells:
                error, entry = cells[kind, layer]
                tip = f"{entry.tensor}, {entry.grid}: {percent(error)}"
                gap = 1.0 if side > 5 else 0.4
                shade = f"h{_shade(error, edges)}"
                parts.append(svg.rect(NAMES + layer * side, y, side - gap, high, shade, 1, tip))
    bottom = top + len(kinds) * (high + 2)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100) if step * side >= 24)
    for layer in range(0, layers, every):
        parts.append(svg.text(NAMES + (layer + 0.5) * side, bottom + 14, layer, "tick", "middle"))
    parts.append(svg.text(NAMES - 8, bottom + 14, "layer", "tick", "end"))
    worst = sorted(_errors(entries, which), key=lambda pair: -pair[0])[:3]
    said = "; ".join(f"{entry.tensor} {percent(error)}" for error, entry in worst)
    return svg.picture(parts, bottom + 20, f"{title}, relative error by layer and matrix. Worst: {said}")


def worst_tensors(entries: Sequence[LayerError], which: str, count: int = 6) -> list[LayerError]:
    """The `count` tensors with the largest error."""
    return [entry for _, entry in sorted(_errors(entries, which), key=lambda pair: -pair[0])[:count]]


def middle(entries: Sequence[LayerError], which: str) -> float | None:
    """The median error of the layers' matrices, None without any."""
    errors = [error for error, entry in _errors(entries, which) if entry.layer is not None]
    return statistics.median(errors) if errors else None


def legend(edges: Sequence[float]) -> list[tuple[str, str]]:
    """Each shade's class and the errors that it stands for."""
    pairs = zip(edges, edges[1:], strict=False)
    return [
        (f"h{index}", f"{float(f'{low * 100:.3g}'):g} to {float(f'{high * 100:.3g}'):g} %")
        for index, (low, high) in enumerate(pairs)
    ]


def percent(error: float) -> str:
    """A relative error with the digits that tell neighbours apart."""
    value = error * 100
    return f"{value:.1f} %" if value >= 10 else f"{value:.2f} %"


def shown(error: float | None) -> str | None:
    """The same for an error that may be missing."""
    return None if error is None else percent(error)


def _shade(error: float, edges: Sequence[float]) -> int:
    return min(STEPS - 1, max(0, int((error - edges[0]) / (edges[1] - edges[0]) + 1e-9)))


def _floor(value: float, step: float) -> float:
    return math.floor(value / step + 1e-9) * step


def _errors(entries: Sequence[LayerError], which: str) -> list[tuple[float, LayerError]]:
    """The matrices that have an error of a kind, with it."""
    pairs = [(entry.error(which), entry) for entry in entries]
    return [(error, entry) for error, entry in pairs if error is not None]


def _place(kind: str) -> tuple[int, str]:
    """Kinds of matrices in ORDER, others behind them."""
    return (ORDER.index(kind) if kind in ORDER else len(ORDER)), kind
