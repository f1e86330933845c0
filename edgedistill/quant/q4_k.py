"""Q4_K: blocks of 8 groups of 32 weights, a 6-bit scale s and minimum n each; the weight is d·s·q − m·n, q in 0..15.

144 bytes a block, 4.5 bits a weight: d and m (ggml's dmin) in fp16, 12 bytes of scales and minimums, then 128 bytes of
codes (planes of 4 bits over runs of 32 bytes).
Source: ggml, block_q4_K and dequantize_row_q4_K (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q4_K
from edgedistill.quant import ggml
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.k_layout import (
    Lattice,
    blocks_of_codes,
    group_numbers,
    join_planes,
    join_scales,
    split_planes,
    split_scales,
)
from edgedistill.quant.k_offset import fit_piece
from edgedistill.quant.k_search import search
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

NAME = Q4_K.name
BLOCK = Q4_K.block
GROUP = 32
STEPS = Steps(0, 15)
SCALES = (0, 63)
MINS = (0, 63)
LEARNED = True
LATTICE = Lattice(NAME, GROUP, STEPS, SCALES, MINS)


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale and offset [O, I/32]."""
    return group_numbers(parts)


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I], by ggml itself."""
    return unpack(ggml.quantize(LATTICE.saturated(weight), NAME))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The search for d, m and the integers of groups of least weighted error, and the nearest codes."""
    return search(weight, importance, LATTICE, fit_piece)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/256·144]."""
    assert parts.m is not None
    assert parts.scales is not None
    assert parts.mins is not None
    integers = join_scales(blocks_of_codes(parts.scales, BLOCK // GROUP), blocks_of_codes(parts.mins, BLOCK // GROUP))
    codes = join_planes(blocks_of_codes(parts.codes, BLOCK), 4, 32)
    return torch.cat([halves_to_bytes(parts.d), halves_to_bytes(parts.m), integers, codes], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    d, m, integers, codes = blocks_of_codes(packed, Q4_K.block_bytes).split((2, 2, 12, 128), -1)
    scales, mins = split_scales(integers)
    return Parts(
        split_planes(codes, 4, 32).flatten(1),
        bytes_to_halves(d),
        bytes_to_halves(m),
        scales.flatten(1),
        mins.flatten(1),
    )
