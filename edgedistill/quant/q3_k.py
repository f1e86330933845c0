"""Q3_K: blocks of 16 groups of 16 weights, with a signed 6-bit scale s each; the weight is d·s·(q − 4), q in 0..7.

110 bytes a block, 3.4375 bits a weight: 32 bytes of the codes' third bits (a plane a bit), 64 bytes of their lower two
(planes over runs of 32 bytes), 12 bytes of scales stored as s + 32 (eight bytes with four bits of two scales each, four
with two bits of four), then d in fp16.
Source: ggml, block_q3_K and dequantize_row_q3_K (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q3_K
from edgedistill.quant import ggml
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.k_layout import Lattice, blocks_of_codes, group_numbers, join_planes, split_planes
from edgedistill.quant.k_search import search
from edgedistill.quant.k_signed import fit_piece
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

NAME = Q3_K.name
BLOCK = Q3_K.block
GROUP = 16
STEPS = Steps(-4, 3, zero=4)
SCALES = (-32, 31)
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
    """The blocks' bytes: uint8 [O, I/256·110]."""
    assert parts.scales is not None
    codes = blocks_of_codes(parts.codes, BLOCK)
    scales = (blocks_of_codes(parts.scales, BLOCK // GROUP) - SCALES[0]).to(torch.uint8)
    fields = [
        join_planes(codes >> 2, 1, 32),
        join_planes(codes & 3, 2, 32),
        join_planes(scales & 15, 4, 8),
        join_planes(scales >> 4, 2, 4),
    ]
    return torch.cat([*fields, halves_to_bytes(parts.d)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    third, low, low_scales, high_scales, d = blocks_of_codes(packed, Q3_K.block_bytes).split((32, 64, 8, 4, 2), -1)
    codes = split_planes(low, 2, 32) | (split_planes(third, 1, 32) << 2)
    scales = split_planes(low_scales, 4, 8) | (split_planes(high_scales, 2, 4) << 4)
    return Parts(codes.flatten(1), bytes_to_halves(d), scales=(scales.to(torch.int8) + SCALES[0]).flatten(1))
