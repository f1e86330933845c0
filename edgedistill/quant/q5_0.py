"""Q5_0: blocks of 32 weights, one fp16 scale d and 32 codes q in 0..31; the weight is d·(q − 16).

22 bytes a block, 5.5 bits a weight: d, 4 bytes of fifth bits (bit i of byte j is q[8j + i]'s), then 16 bytes of low
bits as q4_0's. d may be negative, as q4_0's.
Source: ggml, block_q5_0, quantize_row_q5_0_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q5_0
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
from edgedistill.quant.plain import fit_largest, largest_over_low
from edgedistill.quant.search import fit_scale
from edgedistill.quant.steps import Steps

NAME = Q5_0.name
BLOCK = GROUP = Q5_0.block
STEPS = Steps(-16, 15, zero=16)
SCALES = MINS = None
LEARNED = True


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return parts.d.float(), None


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    return fit_largest(blocks_of(weight, NAME, BLOCK), STEPS)


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale of least weighted error in a search around ggml's, of either sign, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    return fit_scale(blocks, importance, largest_over_low(blocks, STEPS), STEPS)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·22]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    return torch.cat([halves_to_bytes(parts.d), pack_bits(codes >> 4), pack_nibbles(codes & 0x0F)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, Q5_0.block_bytes))
    codes = unpack_nibbles(blocks[..., 6:]) | (unpack_bits(blocks[..., 2:6]) << 4)
    return Parts(codes.flatten(1), bytes_to_halves(blocks[..., :2]))
