"""What llama.cpp's CPU path does to a layer's inputs before it multiplies: blocks of signed 8-bit integers and a scale.

Blocks of 32 weights meet ggml's Q8_0 (scale amax/127 as float16), those of 256 its Q8_K (the same as float32).
onnxruntime at accuracy level 4 rounds blocks of 32 in this way too.
"""

import torch
from torch import Tensor

from edgedistill.quant.blocks import to_half
from edgedistill.quant.rounding import round_half_away, safe_inverse


def eight_bits(x: Tensor, block: int) -> Tensor:
    """[..., I] rounded to 8 bits in blocks of `block`, in x's type; the gradient passes as if it were not rounded."""
    return _EightBits.apply(x, block)  # type: ignore[no-any-return]


class _EightBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, block: int) -> Tensor:  # type: ignore[no-untyped-def]
        blocks = x.detach().float().unflatten(-1, (-1, block))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        codes = round_half_away(blocks * safe_inverse(scale))
        stored = to_half(scale).float() if block == 32 else scale
        return (codes * stored).flatten(-2).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return grad, None
