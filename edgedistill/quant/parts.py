"""What the blocks of a grid store, as numbers: codes, and the scales and minimums that turn them into weights."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """A weight [O, I] on a grid of blocks of `block` weights, which are divided in groups of `group` weights that share
    a scale.

    `codes` are the stored ones: uint8 or int8 [O, I]. `d` is the scale of a block, float16 [O, I/block] (mxfp4: a uint8
        exponent).
    `m` is q4_1's and q5_1's minimum or the K-quants' scale of minimums, float16 [O, I/block]. `scales` and `mins` are
    the K-quants' integers of each group [O, I/group].
    """

    codes: Tensor
    d: Tensor
    m: Tensor | None = None
    scales: Tensor | None = None
    mins: Tensor | None = None

    def with_codes(self, codes: Tensor) -> "Parts":
        """The same scales, other codes."""
        return replace(self, codes=codes)
