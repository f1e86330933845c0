"""ggml's own fits of blocks of 32 weights, without an importance matrix: by the largest weight, or by the range.

Codes are rounded with the float32 scale, before it is stored as fp16, as ggml does.
Source: ggml, quantize_row_q4_0_ref to quantize_row_q5_1_ref (ggml-quants.c). Scales that overflow fp16, which ggml
stores as infinity, are clamped to fp16's largest.
"""

import torch
from torch import Tensor

from edgedistill.quant.blocks import to_half
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import safe_inverse
from edgedistill.quant.steps import Steps


def largest_over_low(blocks: Tensor, steps: Steps) -> Tensor:
    """The scale, float32 [O, I/32], that brings the weight of largest magnitude, with its sign, to the lowest step."""
    at = blocks.abs().argmax(-1, keepdim=True)  # the first of equals, as ggml's `<` keeps it
    return (blocks.gather(-1, at) / steps.low).squeeze(-1)


def fit_largest(blocks: Tensor, steps: Steps) -> Parts:
    """q4_0's and q5_0's: blocks float32 [O, I/32, 32] scaled so that the weight of largest magnitude takes code 0."""
    scale = largest_over_low(blocks, steps)
    # ggml adds the half and truncates.
    scaled = (blocks * safe_inverse(scale).unsqueeze(-1)).add_(steps.zero + 0.5)
    return Parts(scaled.to(torch.uint8).clamp_(max=int(steps.high) + steps.zero).flatten(1), to_half(scale))


def fit_range(blocks: Tensor, steps: Steps) -> Parts:
    """q4_1's and q5_1's: blocks float32 [O, I/32, 32]; the smallest weight takes code 0, the largest the highest."""
    least = blocks.amin(-1)
    scale = (blocks.amax(-1) - least) / steps.high
    scaled = ((blocks - least.unsqueeze(-1)).mul_(safe_inverse(scale).unsqueeze(-1))).add_(0.5)
    return Parts(scaled.to(torch.uint8).clamp_(max=int(steps.high)).flatten(1), to_half(scale), to_half(least))
