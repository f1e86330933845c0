"""Q4_1: blocks of 32 weights, an fp16 scale d, an fp16 minimum m and 32 codes q in 0..15; the weight is d·q + m.

20 bytes a block, 5 bits a weight: d, m, then 16 bytes of codes as q4_0's.
Source: ggml, block_q4_1, quantize_row_q4_1_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q4_1
from edgedistill.quant.blocks import blocks_of
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes, pack_nibbles, unpack_nibbles
from edgedistill.quant.parts import Parts
from edgedistill.quant.plain import fit_range
from edgedistill.quant.search import fit_scale_and_offset
from edgedistill.quant.steps import Steps

NAME = Q4_1.name
BLOCK = GROUP = Q4_1.block
STEPS = Steps(0, 15)
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
    """The blocks' bytes: uint8 [O, I/32·20]."""
    assert parts.m is not None
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    return torch.cat([halves_to_bytes(parts.d), halves_to_bytes(parts.m), pack_nibbles(codes)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, Q4_1.block_bytes))
    return Parts(
        unpack_nibbles(blocks[..., 4:]).flatten(1), bytes_to_halves(blocks[..., :2]), bytes_to_halves(blocks[..., 2:4])
    )
