"""Q4_0: blocks of 32 weights, one fp16 scale d and 32 codes q in 0..15; the weight is d·(q − 8).

18 bytes a block, 4.5 bits a weight: d first, then 16 bytes, byte j holding q[j] in its low and q[j + 16] in its
high half. d may be negative, so that the weight of largest magnitude takes the one code, 0, that reaches 8 steps.
Source: ggml, block_q4_0, quantize_row_q4_0_ref and quantize_row_q4_0_impl (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q4_0
from edgedistill.quant.blocks import blocks_of
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes, pack_nibbles, unpack_nibbles
from edgedistill.quant.parts import Parts
from edgedistill.quant.plain import fit_largest, largest_over_low
from edgedistill.quant.search import fit_scale
from edgedistill.quant.steps import Steps

NAME = Q4_0.name
BLOCK = GROUP = Q4_0.block
STEPS = Steps(-8, 7, zero=8)
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
    """The blocks' bytes: uint8 [O, I/32·18]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    return torch.cat([halves_to_bytes(parts.d), pack_nibbles(codes)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, Q4_0.block_bytes))
    return Parts(unpack_nibbles(blocks[..., 2:]).flatten(1), bytes_to_halves(blocks[..., :2]))
