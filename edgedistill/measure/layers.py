"""Where rounding and training moved a model: of each matrix the relative error of its output, in the file against the
float model.

With E[x_j²] the mean square of input j on text, and dW_j column j of the difference from the float weights,
error = sqrt(Σ_j E[x_j²] |dW_j|² / Σ_j E[x_j²] |W_j|²): the expected size of the change of W x, relative to that of W x,
for inputs that don't correlate. A matrix whose inputs weren't measured (an embedding, an output layer) counts all
columns alike, which is Frobenius.

It looks at one matrix alone. Training on the grid moves weights to make up for each other's rounding, so a recovered
file can have larger errors here than a rounded one, and be nearer to the float model in what it says.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgedistill.progress import Progress

Floats = NDArray[np.float32]
ROWS = 1024  # of a matrix at a time: an embedding's squares would be hundreds of MB
LAYER = re.compile(r"\.layers\.(\d+)\.")
KINDS = ("rounded", "recovered")


class Stored(Protocol):
    """A tensor of a file: its number format, and its float32 values [O, I] or [I] when asked for."""

    @property
    def format(self) -> str:
        """The number format's name."""

    @property
    def values(self) -> Callable[[], Floats]:
        """Reads and decodes it."""


def layer_errors(
    floats: Mapping[str, Stored],
    files: Mapping[str, Mapping[str, Stored]],
    mean_squares: Mapping[str, Tensor] | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The error of each matrix of a mix, in the files' order; two matrices are in memory at a time.

    Args:
        floats: the float model's tensors by name.
        files: the mix's, by "rounded" and "recovered"; one of them may be missing. They hold the same tensors on the
            same grids.
        mean_squares: E[x²] [I] of a matrix's inputs by its name; None where nobody measured them.
    Returns:
        For each: tensor, layer (None outside of layers), grid, weights (their number), and rounded and recovered (None
            where the file
        is missing or the float output is 0).
    """
    found = []
    for name, stored in next(iter(files.values())).items():
        weight = floats[name].values()
        progress.advance(1)
        if weight.ndim != 2:
            continue
        squares = mean_squares.get(name) if mean_squares else None
        inputs = np.ones(weight.shape[1]) if squares is None else squares.double().numpy()
        layer = LAYER.search(name)
        errors = {
            kind: relative_error(weight, files[kind][name].values(), inputs) if kind in files else None
            for kind in KINDS
        }
        found.append(
            {
                "tensor": name,
                "layer": int(layer[1]) if layer else None,
                "grid": stored.format,
                "weights": weight.size,
                **errors,
            }
        )
    return found


def relative_error(weight: Floats, other: Floats, mean_squares: NDArray[np.float64]) -> float | None:
    """See the module; both [O, I], `mean_squares` [I]. None where the float output is 0, and nothing relative to it."""
    gap, size = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for start in range(0, len(weight), ROWS):
        part = weight[start : start + ROWS].astype(np.float64)
        size += np.square(part).sum(axis=0)
        gap += np.square(part - other[start : start + ROWS]).sum(axis=0)
    above, below = float(gap @ mean_squares), float(size @ mean_squares)
    return math.sqrt(above / below) if below > 0 else None
