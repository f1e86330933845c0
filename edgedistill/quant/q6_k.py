"""Q6_K: blocks of 16 groups of 16 weights, with an int8 scale s each; the weight is d·s·(q − 32), q in 0..63.

210 bytes a block, 6.5625 bits a weight: 128 bytes of the codes' lower four bits (planes over runs of 64 bytes), 64
bytes of their upper two (planes over runs of 32), 16 scales, then d in fp16.
Source: ggml, block_q6_K and dequantize_row_q6_K (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q6_K
from edgedistill.quant import ggml
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.k_layout import Lattice, blocks_of_codes, group_numbers, join_planes, split_planes
from edgedistill.quant.k_search import search
from edgedistill.quant.k_signed import fit_piece
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

NAME = Q6_K.name
BLOCK = Q6_K.block
GROUP = 16
STEPS = Steps(-32, 31, zero=32)
SCALES = (-128, 127)
MINS = None
LEARNED = True
LATTICE = Lattice(NAME, GROUP, STEPS, SCALES, MINS)


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/16]; there is no offset."""
    return group_numbers(parts)


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I], by ggml itself."""
    return unpack(ggml.quantize(LATTICE.saturated(weight), NAME))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The search for d and the signed integers of groups of least weighted error, and the nearest codes."""
    return search(weight, importance, LATTICE, fit_piece)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/256·210]."""
    assert parts.scales is not None
    codes = blocks_of_codes(parts.codes, BLOCK)
    scales = blocks_of_codes(parts.scales, BLOCK // GROUP).view(torch.uint8)
    return torch.cat(
        [join_planes(codes & 15, 4, 64), join_planes(codes >> 4, 2, 32), scales, halves_to_bytes(parts.d)], -1
    ).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    low, high, scales, d = blocks_of_codes(packed, Q6_K.block_bytes).split((128, 64, 16, 2), -1)
    codes = split_planes(low, 4, 64) | (split_planes(high, 2, 32) << 4)
    return Parts(codes.flatten(1), bytes_to_halves(d), scales=scales.contiguous().view(torch.int8).flatten(1))
