"""Q2_K: blocks of 16 groups of 16 weights, a 4-bit scale s and minimum n each; the weight is d·s·q − m·n, q in 0..3.

84 bytes a block, 2.625 bits a weight: 16 bytes with a group's s in the low and its n in the high half, 64 bytes of
codes (planes of 2 bits over runs of 32 bytes), then d and m (ggml's dmin) in fp16.
Source: ggml, block_q2_K and dequantize_row_q2_K (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q2_K
from edgedistill.quant import ggml
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.k_layout import Lattice, blocks_of_codes, group_numbers, join_planes, split_planes
from edgedistill.quant.k_offset import fit_piece
from edgedistill.quant.k_search import search
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

NAME = Q2_K.name
BLOCK = Q2_K.block
GROUP = 16
STEPS = Steps(0, 3)
SCALES = (0, 15)
MINS = (0, 15)
LEARNED = True
LATTICE = Lattice(NAME, GROUP, STEPS, SCALES, MINS)


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale and offset [O, I/16]."""
    return group_numbers(parts)


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I], by ggml itself."""
    return unpack(ggml.quantize(LATTICE.saturated(weight), NAME))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The search for d, m and the integers of groups of least weighted error, and the nearest codes."""
    return search(weight, importance, LATTICE, fit_piece)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/256·84]."""
    assert parts.m is not None
    assert parts.scales is not None
    assert parts.mins is not None
    pairs = blocks_of_codes(parts.scales | (parts.mins << 4), BLOCK // GROUP)
    codes = join_planes(blocks_of_codes(parts.codes, BLOCK), 2, 32)
    return torch.cat([pairs, codes, halves_to_bytes(parts.d), halves_to_bytes(parts.m)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    pairs, codes, d, m = blocks_of_codes(packed, Q2_K.block_bytes).split((16, 64, 2, 2), -1)
    scales, mins = (pairs & 15).flatten(1), (pairs >> 4).flatten(1)
    return Parts(split_planes(codes, 2, 32).flatten(1), bytes_to_halves(d), bytes_to_halves(m), scales, mins)
