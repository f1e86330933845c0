"""Q5_1: blocks of 32 weights, an fp16 scale d, an fp16 minimum m and 32 codes q in 0..31; the weight is d·q + m.

24 bytes a block, 6 bits a weight: d, m, 4 bytes of fifth bits, then 16 bytes of low bits, both as q5_0's.
Source: ggml, block_q5_1, quantize_row_q5_1_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q5_1
from edgedistill.quant.blocks import blocks_of
from edgedistill.quant.fields import (
    bytes_to_halves,
    halves_to_bytes,
    pack_bits,
    pack_nibbles,
    unpack_bits,
    unpack_nibbles,
)
from edgedistill.quant.parts import Parts
from edgedistill.quant.plain import fit_range
from edgedistill.quant.search import fit_scale_and_offset
from edgedistill.quant.steps import Steps

NAME = Q5_1.name
BLOCK = GROUP = Q5_1.block
STEPS = Steps(0, 31)
SCALES = MINS = None
LEARNED = True


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale and offset [O, I/32]."""
    assert parts.m is not None
    return parts.d.float(), parts.m.float()


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    return fit_range(blocks_of(weight, NAME, BLOCK), STEPS)


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale and minimum of least weighted error in a search of clipped ranges, and the nearest codes."""
    return fit_scale_and_offset(blocks_of(weight, NAME, BLOCK), importance, STEPS)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·24]."""
    assert parts.m is not None
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    fields = [halves_to_bytes(parts.d), halves_to_bytes(parts.m), pack_bits(codes >> 4), pack_nibbles(codes & 0x0F)]
    return torch.cat(fields, -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, Q5_1.block_bytes))
    codes = unpack_nibbles(blocks[..., 8:]) | (unpack_bits(blocks[..., 4:8]) << 4)
    return Parts(codes.flatten(1), bytes_to_halves(blocks[..., :2]), bytes_to_halves(blocks[..., 2:4]))
