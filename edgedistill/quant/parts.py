"""What the blocks of a grid store, as numbers: codes, and the scales and minimums that turn them into weights."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """A weight [O, I] on a grid: blocks of `block` weights, divided in groups of `group` weights that share a scale.

    Attributes:
        codes: as stored, uint8 or int8 [O, I].
        d: the scale of a block, float16 [O, I/block]; mxfp4's is a uint8 exponent.
        m: q4_1's and q5_1's minimum, or the K-quants' scale of minimums, float16 [O, I/block].
        scales, mins: the K-quants' integers of each group, [O, I/group].
    """

    codes: Tensor
    d: Tensor
    m: Tensor | None = None
    scales: Tensor | None = None
    mins: Tensor | None = None

    def with_codes(self, codes: Tensor) -> "Parts":
        """The same scales, other codes."""
        return replace(self, codes=codes)
