"""Q8_0: blocks of 32 weights, one fp16 scale d and 32 int8 codes q; the weight is d·q.

34 bytes a block, 8.5 bits a weight: d first, then the 32 codes.
Source: ggml, block_q8_0 and quantize_row_q8_0_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q8_0
from edgedistill.quant.blocks import blocks_of, nearest_steps, to_half
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import round_half_away, safe_inverse
from edgedistill.quant.search import search_scale
from edgedistill.quant.steps import Steps

NAME = Q8_0.name
BLOCK = GROUP = Q8_0.block
STEPS = Steps(-127, 127)  # ggml's fit never uses -128
SCALES = MINS = None
LEARNED = True


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return parts.d.float(), None


def fit_scale(weight: Tensor) -> Tensor:
    """ggml's own scale before it is stored: the largest magnitude over 127. [O, I] -> [O, I/32] float32."""
    return blocks_of(weight, NAME, BLOCK).abs().amax(-1) / STEPS.high


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    scale = fit_scale(weight)
    # ggml divides by the fp32 scale and stores the fp16 one; dividing by the stored one moves codes.
    scaled = blocks_of(weight, NAME, BLOCK) * safe_inverse(scale).unsqueeze(-1)
    return Parts(round_half_away(scaled).to(torch.int8).flatten(1), to_half(scale))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale of least weighted error in a search around ggml's, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    costs = None if importance is None else importance.view_as(blocks)
    d = to_half(search_scale(blocks, costs, fit_scale(weight), STEPS))
    return Parts(STEPS.to_codes(nearest_steps(STEPS, blocks, d.float(), None)).flatten(1), d)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·34]."""
    rows = parts.codes.shape[0]
    codes = parts.codes.reshape(rows, -1, BLOCK).view(torch.uint8)
    return torch.cat([parts.d.unsqueeze(-1).view(torch.uint8), codes], -1).reshape(rows, -1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    rows = packed.shape[0]
    blocks = packed.reshape(rows, -1, Q8_0.block_bytes)
    d = blocks[..., :2].contiguous().view(torch.float16).squeeze(-1)
    return Parts(blocks[..., 2:].contiguous().view(torch.int8).reshape(rows, -1), d)
