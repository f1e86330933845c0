"""Q8_0: blocks of 32 weights, one fp16 scale d and 32 int8 codes q; the weight is d·q.

34 bytes a block, 8.5 bits a weight: d first, then the 32 codes.
Source: ggml, block_q8_0 and quantize_row_q8_0_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q8_0
from edgedistill.quant.blocks import blocks_of, to_half
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import round_half_away, safe_inverse
from edgedistill.quant.search import fit_scale
from edgedistill.quant.steps import Steps

NAME = Q8_0.name
BLOCK = GROUP = Q8_0.block
STEPS = Steps(-127, 127)  # ggml's fit never uses -128
SCALES = MINS = None
LEARNED = True


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return parts.d.float(), None


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    blocks = blocks_of(weight, NAME, BLOCK)
    scale = _largest_over_high(blocks)
    # ggml divides by the fp32 scale and stores the fp16 one; dividing by the stored one moves codes.
    scaled = blocks * safe_inverse(scale).unsqueeze(-1)
    return Parts(round_half_away(scaled).to(torch.int8).flatten(1), to_half(scale))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale of least weighted error in a search around ggml's, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    return fit_scale(blocks, importance, _largest_over_high(blocks), STEPS)


def _largest_over_high(blocks: Tensor) -> Tensor:
    return blocks.abs().amax(-1) / STEPS.high


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·34]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK)).view(torch.uint8)
    return torch.cat([halves_to_bytes(parts.d), codes], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, Q8_0.block_bytes))
    return Parts(blocks[..., 2:].contiguous().view(torch.int8).flatten(1), bytes_to_halves(blocks[..., :2]))
