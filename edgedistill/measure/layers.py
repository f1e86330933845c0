"""Errors by layer: of each matrix the relative error of its output, in a packed file against the float model.

With E[x_j²] the mean square of input j on text, and dW_j column j of the difference from the float weights,
error = sqrt(Σ_j E[x_j²] |dW_j|² / Σ_j E[x_j²] |W_j|²): the expected size of the change of W x, relative to that of W x,
for inputs that don't correlate. A matrix whose inputs weren't measured (an embedding, an output layer) counts all
columns alike, which is Frobenius.

The error is of one matrix alone. Training on the grid moves weights to make up for each other's rounding, so a
recovered file can have larger errors here than a rounded one, and be nearer to the float model in what it says.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgedistill.measure.kept import read_json, write_whole
from edgedistill.progress import Progress
from edgedistill.results.measurement import LayerError, Layers

Floats = NDArray[np.float32]
ROWS = 1024  # of a matrix at a time: an embedding's squares would be hundreds of MB
LAYER = re.compile(r"\.layers\.(\d+)\.")
FILE = "layers.json"


class StoredTensor(Protocol):
    """A tensor of a file: its number format, and its float32 values [O, I] or [I] when asked for."""

    @property
    def format(self) -> str:
        """The number format's name."""

    @property
    def values(self) -> Callable[[], Floats]:
        """Reads and decodes it."""


def measure_layers(
    floats: Mapping[str, StoredTensor],
    files: Mapping[str, Mapping[str, StoredTensor]],
    mean_squares: Mapping[str, Tensor] | None,
    mix: str,
    progress: Progress,
) -> Layers:
    """A mix's errors, with progress; as `layer_errors`, whose arguments these are.

    Args:
        mix: its name, for the progress.
    """
    progress.start(f"{mix}: errors by layer", len(next(iter(files.values()))), "tensors")
    errors = layer_errors(floats, files, mean_squares, progress)
    progress.finish()
    return Layers("inputs" if mean_squares else "weights", tuple(errors))


def save_layers(layers: Layers, folder: Path) -> None:
    """Write a mix's errors to `layers.json`."""
    write_whole(folder / FILE, layers.to_json())


def load_layers(folder: Path) -> Layers:
    """What `save_layers` wrote."""
    return Layers.from_json(read_json(folder / FILE), str(folder / FILE))


def layer_errors(
    floats: Mapping[str, StoredTensor],
    files: Mapping[str, Mapping[str, StoredTensor]],
    mean_squares: Mapping[str, Tensor] | None,
    progress: Progress,
) -> list[LayerError]:
    """The error of each matrix of a mix, in the files' order; two matrices are in memory at a time.

    Args:
        floats: the float model's tensors by name.
        files: the mix's, by "rounded" and "recovered"; one of them may be missing. They hold the same tensors on the
            same grids.
        mean_squares: E[x²] [I] of a matrix's inputs by its name; None where nobody measured them.
        progress: advances by tensors.
    Returns:
        One for each matrix; an error is None where its file is missing or the float output is 0.
    """
    errors = []
    for name, stored in next(iter(files.values())).items():
        weight = floats[name].values()
        progress.advance(1)
        if weight.ndim != 2:
            continue
        squares = mean_squares.get(name) if mean_squares else None
        inputs = np.ones(weight.shape[1]) if squares is None else squares.double().numpy()
        by_kind = {kind: relative_error(weight, file[name].values(), inputs) for kind, file in files.items()}
        errors.append(
            LayerError(
                tensor=name,
                layer=_layer_of(name),
                grid=stored.format,
                weights=weight.size,
                rounded=by_kind.get("rounded"),
                recovered=by_kind.get("recovered"),
            )
        )
    return errors


def _layer_of(tensor: str) -> int | None:
    """The number of the layer that a tensor is in; None outside of layers."""
    match = LAYER.search(tensor)
    return int(match[1]) if match else None


def relative_error(weight: Floats, other: Floats, mean_squares: NDArray[np.float64]) -> float | None:
    """See the module; both [O, I], `mean_squares` [I]. None where the float output is 0, and nothing relative to it."""
    gap, size = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for start in range(0, len(weight), ROWS):
        part = weight[start : start + ROWS].astype(np.float64)
        size += np.square(part).sum(axis=0)
        gap += np.square(part - other[start : start + ROWS]).sum(axis=0)
    above, below = float(gap @ mean_squares), float(size @ mean_squares)
    return math.sqrt(above / below) if below > 0 else None
