"""A symmetric matrix [I, I] by its lower triangle in float16: about half of the bytes of the whole.

Kept in strips of STRIP rows, each up to the end of its block on the diagonal, end to end: n strips take
STRIP² · n (n + 1) / 2 numbers where STRIP divides I. Strips are copied whole, which single rows would take ten times as
long for.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

STRIP = 256


def to_triangle(matrix: Tensor) -> Tensor:
    """The strips of a symmetric matrix: float16 [n]."""
    return torch.cat([matrix[rows, : rows.stop].half().flatten() for rows in _strips(len(matrix))])


def from_triangle(triangle: Tensor, size: int) -> Tensor:
    """The matrix float32 [size, size]; above the blocks on the diagonal it is what lies below them."""
    matrix = torch.empty(size, size)
    at = 0
    for rows in _strips(size):
        count = (rows.stop - rows.start) * rows.stop
        strip = triangle[at : at + count].float().view(-1, rows.stop)
        matrix[rows, : rows.stop] = strip
        matrix[: rows.start, rows] = strip[:, : rows.start].T
        at += count
    return matrix


def _strips(size: int) -> Iterator[slice]:
    return (slice(start, min(start + STRIP, size)) for start in range(0, size, STRIP))
