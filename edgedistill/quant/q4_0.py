"""Q4_0: blocks of 32 weights, one fp16 scale d and 32 codes q in 0..15; the weight is d·(q − 8).

18 bytes a block, 4.5 bits a weight: d first, then 16 bytes, byte j holding q[j] in its low and q[j + 16] in its
high half. d may be negative, so that the weight of largest magnitude takes the one code, 0, that reaches 8 steps.
Source: ggml, block_q4_0, quantize_row_q4_0_ref and quantize_row_q4_0_impl (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q4_0
from edgedistill.quant.blocks import blocks_of, nearest_steps, to_half
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import safe_inverse
from edgedistill.quant.search import search_scale
from edgedistill.quant.steps import Steps

NAME = Q4_0.name
BLOCK = GROUP = Q4_0.block
STEPS = Steps(-8, 7, zero=8)
SCALES = MINS = None
LEARNED = True


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return parts.d.float(), None


def fit_scale(weight: Tensor) -> Tensor:
    """ggml's own scale before it is stored: the value of largest magnitude over -8. [O, I] -> [O, I/32] float32."""
    blocks = blocks_of(weight, NAME, BLOCK)
    at = blocks.abs().argmax(-1, keepdim=True)  # the first of equals, as ggml's `<` keeps it
    return (blocks.gather(-1, at) / STEPS.low).squeeze(-1)


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    scale = fit_scale(weight)
    # ggml divides by the fp32 scale and stores the fp16 one, adds 8.5 and truncates.
    scaled = blocks_of(weight, NAME, BLOCK) * safe_inverse(scale).unsqueeze(-1)
    return Parts((scaled + (STEPS.zero + 0.5)).to(torch.uint8).clamp(max=15).flatten(1), to_half(scale))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale of least weighted error in a search around ggml's, of either sign, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    costs = None if importance is None else importance.view_as(blocks)
    d = to_half(search_scale(blocks, costs, fit_scale(weight), STEPS))
    return Parts(STEPS.to_codes(nearest_steps(STEPS, blocks, d.float(), None)).flatten(1), d)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·18]."""
    rows = parts.codes.shape[0]
    halves = parts.codes.reshape(rows, -1, 2, BLOCK // 2)
    nibbles = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return torch.cat([parts.d.unsqueeze(-1).view(torch.uint8), nibbles], -1).reshape(rows, -1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    rows = packed.shape[0]
    blocks = packed.reshape(rows, -1, Q4_0.block_bytes)
    nibbles = blocks[..., 2:]
    codes = torch.cat([nibbles & 0x0F, nibbles >> 4], -1)
    return Parts(codes.reshape(rows, -1), blocks[..., :2].contiguous().view(torch.float16).squeeze(-1))
