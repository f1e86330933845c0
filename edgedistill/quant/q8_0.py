"""Q8_0: blocks of 32 weights, one fp16 scale d and 32 int8 codes q; the weight is d·q.

34 bytes a block, 8.5 bits a weight: d first, then the 32 codes.
Source: ggml, block_q8_0 and quantize_row_q8_0_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q8_0
from edgedistill.quant.rounding import check_finite, round_half_away, safe_inverse

NAME = Q8_0.name
LOPSIDED = False  # whether codes reach farther on one side of zero
BLOCK = Q8_0.block
LIMIT = 127  # ggml's fit never uses -128
SCALE_LIMIT = 65504.0  # fp16's largest number


def blocks_of(weight: Tensor) -> Tensor:
    """[O, I] as float32 [O, I/32, 32].

    Raises:
        ValueError: a row isn't a multiple of 32 weights, or a weight isn't finite.
    """
    rows, cols = weight.shape
    if cols % BLOCK:
        raise ValueError(f"{NAME} rows must be a multiple of {BLOCK} weights, got {cols} in {(rows, cols)}")
    check_finite(weight, NAME)
    return weight.float().reshape(rows, -1, BLOCK)


def fit_scale(weight: Tensor) -> Tensor:
    """ggml's own scale before it is stored: the largest magnitude over 127. [O, I] -> [O, I/32] float32."""
    return blocks_of(weight).abs().amax(-1) / LIMIT


def store_scale(scale: Tensor) -> Tensor:
    """A float32 scale as the block stores it: float16, clamped to what float16 holds."""
    return scale.clamp(-SCALE_LIMIT, SCALE_LIMIT).half()


def encode(weight: Tensor) -> tuple[Tensor, Tensor]:
    """ggml's fit: float16 scales [O, I/32] and int8 codes [O, I] of a weight [O, I]."""
    scale = fit_scale(weight)
    # ggml divides by the fp32 scale and stores the fp16 one; dividing by the stored one moves codes.
    codes = round_half_away(blocks_of(weight) * safe_inverse(scale).unsqueeze(-1)).to(torch.int8)
    return store_scale(scale), codes.flatten(1)


def nearest_steps(blocks: Tensor, scale: Tensor) -> Tensor:
    """The nearest steps, float32 whole numbers in -127..127, of blocks [..., 32] for stored scales [...]: weight = scale · step."""
    scaled = blocks * safe_inverse(scale.float()).unsqueeze(-1)
    return scaled.add_(0.5).floor_().clamp_(-LIMIT, LIMIT)


def encode_with_scale(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest codes int8 [O, I] when the scales [O, I/32] are given as stored (float16 values)."""
    rows, cols = weight.shape
    return nearest_steps(weight.float().reshape(rows, -1, BLOCK), scale).to(torch.int8).reshape(rows, cols)


def decode(scale: Tensor, codes: Tensor) -> Tensor:
    """What the runtime computes: float32 [O, I] of float16 scales [O, I/32] and codes [O, I]."""
    rows, cols = codes.shape
    steps = codes.reshape(rows, -1, BLOCK).float()
    return (steps * scale.float().unsqueeze(-1)).reshape(rows, cols)


def pack(scale: Tensor, codes: Tensor) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·34]."""
    rows, cols = codes.shape
    steps = codes.reshape(rows, -1, BLOCK).view(torch.uint8)
    return torch.cat([scale.unsqueeze(-1).view(torch.uint8), steps], -1).reshape(rows, -1)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `pack`: scales float16 [O, I/32] and codes int8 [O, I]."""
    rows = packed.shape[0]
    blocks = packed.reshape(rows, -1, Q8_0.block_bytes)
    scale = blocks[..., :2].contiguous().view(torch.float16).squeeze(-1)
    return scale, blocks[..., 2:].contiguous().view(torch.int8).reshape(rows, -1)
