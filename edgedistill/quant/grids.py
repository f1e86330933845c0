"""The grids by name, behind one interface: what a number format must do to be trained on and shipped."""

from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from edgedistill.quant import q4_0, q8_0


class Grid(Protocol):
    """A grid module. `decode(*encode(w))` equals gguf's dequantization of `pack(*encode(w))`, bit for bit."""

    NAME: str
    BLOCK: int
    LOPSIDED: bool

    def fit_scale(self, weight: Tensor) -> Tensor: ...
    def store_scale(self, scale: Tensor) -> Tensor: ...
    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]: ...
    def nearest_steps(self, blocks: Tensor, scale: Tensor) -> Tensor: ...
    def encode_with_scale(self, weight: Tensor, scale: Tensor) -> Tensor: ...
    def decode(self, scale: Tensor, codes: Tensor) -> Tensor: ...
    def pack(self, scale: Tensor, codes: Tensor) -> Tensor: ...
    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]: ...


GRIDS: dict[str, Grid] = {name: cast(Grid, module) for name, module in {"q4_0": q4_0, "q8_0": q8_0}.items()}


@dataclass(frozen=True)
class GridTensor:
    """A weight [O, I] on its grid: float16 scales [O, I/block] and integer codes [O, I]."""

    grid: str
    scale: Tensor
    codes: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return (self.codes.shape[0], self.codes.shape[1])

    def decode(self) -> Tensor:
        """Float32 [O, I], as training saw it and as the runtime sees it."""
        return GRIDS[self.grid].decode(self.scale, self.codes)

    def pack(self) -> Tensor:
        """Uint8 [O, row bytes] in ggml's layout."""
        return GRIDS[self.grid].pack(self.scale, self.codes)
