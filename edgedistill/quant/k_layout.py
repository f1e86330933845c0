"""What the K-quants' layouts share: blocks of 256 weights in groups of 16 or 32, their codes in bit planes.

ggml keeps a block's codes in planes: a run of 16, 32 or 64 bytes holds several runs of codes, the first in the lowest
bits, so that a processor unpacks a whole run with one shift. The weight is (d·scale)·step − (m·minimum), each product
rounded to float32.
Source: ggml, block_q2_K to block_q6_K (ggml-common.h) and dequantize_row_* (ggml-quants.c).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.quant.blocks import HALF_LIMIT, blocks_of
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

BLOCK = 256


@dataclass(frozen=True)
class Lattice:
    """The weights that a K-quant can hold: d · integer scale · step − m · integer minimum, one of each a group."""

    name: str
    group: int
    steps: Steps
    scales: tuple[int, int]
    mins: tuple[int, int] | None

    def saturated(self, weight: Tensor) -> Tensor:
        """A weight [O, I] held within half of what the layout reaches, so that no fit stores an infinite d or m.

        A model's weights are nowhere near: the least of these limits is 491 280, q2_k's.

        Raises:
            ValueError: a row isn't a multiple of 256 weights, or a weight isn't finite.
        """
        reach = HALF_LIMIT * (self.scales[0] * self.steps.low if self.mins is None else self.mins[1])
        return blocks_of(weight, self.name, BLOCK).flatten(1).clamp(-reach / 2, reach / 2)


def split_planes(packed: Tensor, bits: int, run: int) -> Tensor:
    """Bytes [..., n] -> codes uint8 [..., n·8/bits]: each run of `run` bytes gives 8/bits runs, lowest bits first."""
    runs = packed.reshape(*packed.shape[:-1], -1, 1, run)
    mask = (1 << bits) - 1
    return torch.cat([(runs >> shift) & mask for shift in range(0, 8, bits)], -2).flatten(-3)


def join_planes(codes: Tensor, bits: int, run: int) -> Tensor:
    """Undo `split_planes`; bits of a code above `bits` must be 0."""
    planes = codes.reshape(*codes.shape[:-1], -1, 8 // bits, run)
    joined = planes[..., 0, :].clone()
    for index in range(1, 8 // bits):
        joined |= planes[..., index, :] << (index * bits)
    return joined.flatten(-2)


def split_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Q4_K's and Q5_K's 12 bytes [..., 12] -> eight 6-bit scales and eight minimums, uint8 [..., 8] each.

    Bytes 0-3 and 4-7 hold the first four scales and minimums, and above them the upper two bits of the last four, whose
    lower bits share bytes 8-11.
    """
    low, mid, last = packed.split(4, -1)
    return (
        torch.cat([low & 63, (last & 15) | ((low >> 6) << 4)], -1),
        torch.cat([mid & 63, (last >> 4) | ((mid >> 6) << 4)], -1),
    )


def join_scales(scales: Tensor, mins: Tensor) -> Tensor:
    """Undo `split_scales`."""
    (scale, last_scale), (low, last_low) = scales.split(4, -1), mins.split(4, -1)
    return torch.cat(
        [scale | ((last_scale >> 4) << 6), low | ((last_low >> 4) << 6), (last_scale & 15) | ((last_low & 15) << 4)], -1
    )


def blocks_of_codes(numbers: Tensor, block: int) -> Tensor:
    """[O, n·block] -> [O, n, block]."""
    return numbers.reshape(numbers.shape[0], -1, block)


def group_numbers(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/group] and, where the grid has minimums, offset of each group."""
    assert parts.scales is not None
    scale = _spread(parts.d, parts.scales)
    if parts.m is None or parts.mins is None:
        return scale, None
    return scale, -_spread(parts.m, parts.mins)


def _spread(per_block: Tensor, integers: Tensor) -> Tensor:
    rows, blocks = per_block.shape
    return (per_block.float().unsqueeze(-1) * integers.float().view(rows, blocks, -1)).flatten(1)
