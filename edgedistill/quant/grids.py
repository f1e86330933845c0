"""The grids by name, behind one interface: what a number format must do to be trained on and shipped."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from edgedistill.formats import FORMATS
from edgedistill.quant import iq4_nl, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, tq2_0
from edgedistill.quant.blocks import nearest_steps, row_pieces, weights_of_steps
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps


class Grid(Protocol):
    """A number format as a module: weight = scale · step + offset, as gguf decodes `pack(parts)`, bit for bit."""

    NAME: str
    BLOCK: int  # weights a block of ggml's layout
    GROUP: int  # weights that share a scale
    STEPS: Steps
    SCALES: tuple[int, int] | None  # range of a K-quant's integer scales of groups, None where there are none
    MINS: tuple[int, int] | None  # the same for its minimums
    LEARNED: bool  # whether `d` can take any value, so that training may move it

    def groups(self, parts: Parts) -> tuple[Tensor, Tensor | None]:
        """Scale and offset float32 [O, I/GROUP] as the runtime computes them; reads all but the codes.

        Differentiable where d, m, scales and mins are given as float32.
        """
        ...

    def encode(self, weight: Tensor) -> Parts:
        """Round [O, I] as ggml's own quantizer does without an importance matrix.

        Raises:
            ValueError: a row isn't a multiple of BLOCK weights, or a weight isn't finite.
        """
        ...

    def fit(self, weight: Tensor, importance: Tensor | None) -> Parts:
        """Our own scales and codes, of least Σ importance · (w − ŵ)²; `fit.fit_weight` compares each block with ggml's.

        Args:
            weight: [O, I].
            importance: float32 [O, I], what a squared error of each weight costs; None for equal costs.
        """
        ...

    def pack(self, parts: Parts) -> Tensor:
        """uint8 [O, I/BLOCK · block bytes] as ggml lays it out."""
        ...

    def unpack(self, packed: Tensor) -> Parts:
        """Undo `pack`."""
        ...


_MODULES = (q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, mxfp4, tq2_0)
GRIDS: dict[str, Grid] = {module.NAME: cast(Grid, module) for module in _MODULES}


def decode(grid: Grid, parts: Parts) -> Tensor:
    """What the runtime computes: float32 [O, I]."""
    codes = parts.codes
    steps = grid.STEPS.of_codes(codes).view(codes.shape[0], -1, grid.GROUP)
    return weights_of_steps(steps, *grid.groups(parts)).view(codes.shape)


def requantize(grid: Grid, weight: Tensor, parts: Parts) -> Parts:
    """The nearest codes to a weight [O, I] with the scales of `parts`."""
    grouped = weight.float().reshape(weight.shape[0], -1, grid.GROUP)
    steps = nearest_steps(grid.STEPS, grouped, *grid.groups(parts))
    return parts.with_codes(grid.STEPS.to_codes(steps).view(weight.shape))


@dataclass(frozen=True)
class GridTensor:
    """A weight [O, I] on its grid, as the bytes that ship: uint8 [O, row bytes] in ggml's layout."""

    grid: str
    packed: Tensor

    @classmethod
    def of(cls, grid: str, parts: Parts) -> "GridTensor":
        """Pack the parts."""
        return cls(grid, GRIDS[grid].pack(parts))

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        number_format = FORMATS[self.grid]
        return (self.packed.shape[0], self.packed.shape[1] // number_format.block_bytes * number_format.block)

    def to(self, device: str | torch.device) -> "GridTensor":
        """The same on a device."""
        return GridTensor(self.grid, self.packed.to(device))

    def parts(self) -> Parts:
        """Codes and scales as numbers."""
        return GRIDS[self.grid].unpack(self.packed)

    def decode(self) -> Tensor:
        """Float32 [O, I], as training saw it and as the runtime sees it."""
        module, out = GRIDS[self.grid], torch.empty(self.shape, device=self.packed.device)
        for rows in row_pieces(out):  # whole, the codes and steps of a table take several times its own memory
            out[rows] = decode(module, module.unpack(self.packed[rows]))
        return out
