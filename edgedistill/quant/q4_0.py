"""Q4_0: blocks of 32 weights, one fp16 scale d and 32 codes q in 0..15; the weight is d·(q − 8).

18 bytes a block, 4.5 bits a weight: d first, then 16 bytes, byte j holding q[j] in its low and q[j + 16] in its
high half. d may be negative, so that the weight of largest magnitude takes the one code, 0, that reaches 8 steps.
Source: ggml, block_q4_0, quantize_row_q4_0_ref and quantize_row_q4_0_impl (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import Q4_0
from edgedistill.quant.rounding import check_finite, safe_inverse

NAME = Q4_0.name
LOPSIDED = True  # whether codes reach farther on one side of zero
BLOCK = Q4_0.block
ZERO = 8  # the code of weight 0
LOW, HIGH = 0, 15
# fp16's largest number: a larger scale would be stored as infinity.
SCALE_LIMIT = 65504.0


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
    """ggml's own scale before it is stored: the value of largest magnitude over -8. [O, I] -> [O, I/32] float32."""
    blocks = blocks_of(weight)
    at = blocks.abs().argmax(-1, keepdim=True)  # the first of equals, as ggml's `<` keeps it
    return (blocks.gather(-1, at) / -ZERO).squeeze(-1)


def store_scale(scale: Tensor) -> Tensor:
    """A float32 scale as the block stores it: float16, clamped to what float16 holds."""
    return scale.clamp(-SCALE_LIMIT, SCALE_LIMIT).half()


def encode(weight: Tensor) -> tuple[Tensor, Tensor]:
    """ggml's fit: float16 scales [O, I/32] and uint8 codes [O, I] of a weight [O, I]."""
    scale = fit_scale(weight)
    # ggml divides by the fp32 scale and stores the fp16 one, adds 8.5 and truncates.
    scaled = blocks_of(weight) * safe_inverse(scale).unsqueeze(-1)
    codes = (scaled + (ZERO + 0.5)).to(torch.uint8).clamp(max=HIGH)
    return store_scale(scale), codes.flatten(1)


def nearest_steps(blocks: Tensor, scale: Tensor) -> Tensor:
    """The nearest steps, float32 whole numbers in -8..7, of blocks [..., 32] for stored scales [...]: weight = scale · step."""
    scaled = blocks * safe_inverse(scale.float()).unsqueeze(-1)
    return scaled.add_(0.5).floor_().clamp_(LOW - ZERO, HIGH - ZERO)


def encode_with_scale(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest codes uint8 [O, I] when the scales [O, I/32] are given as stored (float16 values)."""
    rows, cols = weight.shape
    return nearest_steps(weight.float().reshape(rows, -1, BLOCK), scale).add_(ZERO).to(torch.uint8).reshape(rows, cols)


def decode(scale: Tensor, codes: Tensor) -> Tensor:
    """What the runtime computes: float32 [O, I] of float16 scales [O, I/32] and codes [O, I]."""
    rows, cols = codes.shape
    steps = codes.reshape(rows, -1, BLOCK).float() - ZERO
    return (steps * scale.float().unsqueeze(-1)).reshape(rows, cols)


def pack(scale: Tensor, codes: Tensor) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·18]."""
    rows, cols = codes.shape
    halves = codes.reshape(rows, -1, 2, BLOCK // 2)
    nibbles = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return torch.cat([scale.unsqueeze(-1).view(torch.uint8), nibbles], -1).reshape(rows, -1)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `pack`: scales float16 [O, I/32] and codes uint8 [O, I]."""
    rows = packed.shape[0]
    blocks = packed.reshape(rows, -1, Q4_0.block_bytes)
    scale = blocks[..., :2].contiguous().view(torch.float16).squeeze(-1)
    nibbles = blocks[..., 2:]
    codes = torch.cat([nibbles & 0x0F, nibbles >> 4], -1)
    return scale, codes.reshape(rows, -1)
