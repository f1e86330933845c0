"""IQ4_NL: blocks of 32 weights, one fp16 scale d and 32 four-bit codes of 16 uneven levels; the weight is d·level.

18 bytes a block, 4.5 bits a weight, laid out as q4_0. The levels are denser around zero, where most weights are.
Source: ggml, block_iq4_nl, kvalues_iq4nl (ggml-common.h) and quantize_row_iq4_nl_impl (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import IQ4_NL
from edgedistill.quant.blocks import blocks_of, to_half
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes, pack_nibbles, unpack_nibbles
from edgedistill.quant.parts import Parts
from edgedistill.quant.plain import largest_over_low
from edgedistill.quant.rounding import safe_inverse
from edgedistill.quant.search import fit_scale
from edgedistill.quant.steps import Steps

NAME = IQ4_NL.name
BLOCK = GROUP = IQ4_NL.block
STEPS = Steps.of_levels((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))
SCALES = MINS = None
LEARNED = True

TRIES = 7  # on each side of the scale that brings the largest weight to the lowest level, in quantize_iq4_nl
NOTHING = 1e-15  # ggml's GROUP_MAX_EPS: a block of smaller weights gets the scale 0


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return parts.d.float(), None


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]: the best of 16 scales, where a weight's error costs the weight's square."""
    blocks = blocks_of(weight, NAME, BLOCK)
    # [32, blocks]: ggml sums a block's terms one after another in float32, and another order gives other scales.
    x = blocks.flatten(0, 1).T.contiguous()
    largest = x.gather(0, x.abs().argmax(0, keepdim=True)).squeeze(0)
    cost = x.square()
    nothing = largest.abs() < NOTHING
    # What NOTHING excludes would divide by zero.
    largest = torch.where(nothing, 1.0, largest)
    along, across = _sums(x, cost, 1 / (-largest / STEPS.low))
    scale = torch.where(across > 0, along / across, 0.0)
    best = scale * along
    for lower in range(-TRIES, TRIES + 1):
        along, across = _sums(x, cost, (lower + STEPS.low) / largest)
        better = (across > 0) & (along * along > best * across)
        scale = torch.where(better, along / across, scale)
        best = torch.where(better, scale * along, best)
    scale = torch.where(nothing, 0.0, scale).view(blocks.shape[:2])
    steps = STEPS.nearest_(blocks * safe_inverse(scale).unsqueeze(-1))
    return Parts(STEPS.to_codes(steps).flatten(1), to_half(scale))


def _sums(x: Tensor, cost: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Σ cost · step · x and Σ cost · step² over the first dimension, for the steps nearest to x · inverse."""
    steps = STEPS.nearest_(x * inverse)
    weighted = cost * steps
    return _in_order(weighted * x), _in_order(weighted.mul_(steps))


def _in_order(terms: Tensor) -> Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale of least weighted error in a search around the largest weight's, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    return fit_scale(blocks, importance, largest_over_low(blocks, STEPS), STEPS)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·18]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    return torch.cat([halves_to_bytes(parts.d), pack_nibbles(codes)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, IQ4_NL.block_bytes))
    return Parts(unpack_nibbles(blocks[..., 2:]).flatten(1), bytes_to_halves(blocks[..., :2]))
