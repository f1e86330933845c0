"""MXFP4: blocks of 32 weights, one shared 8-bit exponent e and 32 four-bit numbers (sign, 2 exponent bits, 1 mantissa).

17 bytes a block, 4.25 bits a weight: e, then 16 bytes of codes as q4_0's. The weight is level · 2^(e − 128); a level is
twice its number: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives. Code 8 is a second zero, which no encoder writes. The
scale is a power of two, so training can't move it: it can only choose codes.
Source: Open Compute Project, OCP Microscaling Formats (MX) v1.0; ggml, block_mxfp4, kvalues_fp4 (ggml-common.h),
quantize_row_mxfp4_ref (ggml-quants.c) and ggml_e8m0_to_fp32_half (ggml-impl.h).
"""

import functools

import torch
from torch import Tensor

from edgedistill.formats import MXFP4
from edgedistill.quant.blocks import blocks_of
from edgedistill.quant.fields import pack_nibbles, unpack_nibbles
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import block_sums, safe_inverse
from edgedistill.quant.steps import Steps

NAME = MXFP4.name
BLOCK = GROUP = MXFP4.block
STEPS = Steps.of_levels((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))
SCALES = MINS = None
LEARNED = False

BIAS = 127  # of the exponent of a number; a level is twice a number, so its scale is 2^(e - 128)
LARGEST_EXPONENT = 2  # of the largest number, 6 = 1.5 · 2²
NEIGHBOURS = (-2, -1, 0, 1)  # exponents that the fit tries around ggml's


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/32]; there is no offset."""
    return _scales(parts.d.device).index_select(0, parts.d.flatten().to(torch.int32)).view(parts.d.shape), None


@functools.cache
def _scales(device: torch.device) -> Tensor:
    """The scale of each exponent: exact, in the subnormal ones too."""
    return torch.tensor([2.0 ** (e - BIAS - 1) for e in range(256)], dtype=torch.float32).to(device)


def _exponents(blocks: Tensor) -> Tensor:
    """ggml's choice, the largest weight's exponent less 2; it clips weights up to a third above 6 · scale.

    int32 [O, I/32]. In blocks whose largest weight is below 2^-125 ggml's exponent is negative and wraps around to a
    huge scale; ours stays at 0.
    """
    largest = blocks.abs().amax(-1)
    # As C's log2f, rounded to float32: just below a power of two it reaches the next whole number, and so does ggml.
    whole = largest.double().log2_().float().floor_()
    return torch.where(largest > 0, whole - LARGEST_EXPONENT + BIAS, 0.0).clamp_(0, 255).to(torch.int32)


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]."""
    blocks = blocks_of(weight, NAME, BLOCK)
    d = _exponents(blocks).to(torch.uint8)
    return Parts(_nearest_codes(blocks, d), d)


def _nearest_codes(blocks: Tensor, d: Tensor) -> Tensor:
    """The first code of least error, as ggml looks for it: halfway goes toward zero."""
    scaled = blocks * safe_inverse(groups(Parts(d, d))[0]).unsqueeze(-1)
    # Levels are symmetric, and of a number's opposite the nearest level with halves up is its own with halves down.
    steps = STEPS.nearest_(-scaled.abs()).abs_()
    return STEPS.to_codes(steps.copysign_(scaled)).flatten(1)


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The exponent of least weighted error among ggml's and its neighbours, and the nearest codes."""
    blocks = blocks_of(weight, NAME, BLOCK)
    costs = None if importance is None else importance.view_as(blocks)
    start = _exponents(blocks)
    best, least = start, torch.full(start.shape, float("inf"), device=weight.device)
    for neighbour in NEIGHBOURS:
        candidate = (start + neighbour).clamp_(0, 255)
        scale, _ = groups(Parts(candidate, candidate))
        steps = STEPS.nearest_(blocks * safe_inverse(scale).unsqueeze(-1))
        error = steps.mul_(scale.unsqueeze(-1)).sub_(blocks).square_()
        if costs is not None:
            error.mul_(costs)
        total = block_sums(error)
        better = total < least
        best, least = torch.where(better, candidate, best), torch.where(better, total, least)
    d = best.to(torch.uint8)
    return Parts(_nearest_codes(blocks, d), d)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/32·17]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK))
    return torch.cat([parts.d.unsqueeze(-1), pack_nibbles(codes)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, MXFP4.block_bytes))
    return Parts(unpack_nibbles(blocks[..., 1:]).flatten(1), blocks[..., 0].contiguous())
