"""Weights cut into blocks and groups, and the arithmetic that all grids share.

A weight is scale · step + offset, with one scale and offset for each group: float32, one rounding for the product and
one for the sum, as gguf and ggml's reference code dequantize.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import block_sums, check_finite, safe_inverse
from edgedistill.quant.steps import Steps

HALF_LIMIT = 65504.0  # fp16's largest number: a larger scale would be stored as infinity
PIECE = 1 << 18  # weights at a time for each of a processor's threads: they and their results fit in its caches
PIECE_ELSEWHERE = 1 << 24  # an accelerator wants long kernels


def to_half(x: Tensor) -> Tensor:
    """Float32 as a block stores it: the nearest float16, clamped to what float16 holds."""
    return x.clamp(-HALF_LIMIT, HALF_LIMIT).half()


def blocks_of(weight: Tensor, name: str, block: int) -> Tensor:
    """[O, I] as float32 [O, I/block, block].

    Raises:
        ValueError: a row isn't a multiple of `block` weights, or a weight isn't finite.
    """
    rows, cols = weight.shape
    if cols % block:
        raise ValueError(f"{name} rows must be a multiple of {block} weights, got {cols} in {(rows, cols)}")
    check_finite(weight, name)
    return weight.float().reshape(rows, -1, block)


def row_pieces(weight: Tensor) -> Iterator[slice]:
    """Rows of a weight [O, I] to work on at a time."""
    rows, cols = weight.shape
    size = PIECE * torch.get_num_threads() if weight.device.type == "cpu" else PIECE_ELSEWHERE
    at_once = max(1, size // cols)
    return (slice(start, start + at_once) for start in range(0, rows, at_once))


def nearest_steps(steps: Steps, grouped: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """The steps, float32 [..., group], that bring scale · step + offset nearest to weights float32 [..., group].

    Args:
        scale, offset: float32 [...], as stored.
    """
    shifted = grouped if offset is None else grouped - offset.unsqueeze(-1)
    return steps.nearest_(shifted * safe_inverse(scale).unsqueeze(-1))


def weights_of_steps(steps: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """Float32 [..., group], written over `steps`."""
    steps.mul_(scale.unsqueeze(-1))
    return steps if offset is None else steps.add_(offset.unsqueeze(-1))


def block_errors(weight: Tensor, decoded: Tensor, importance: Tensor | None, block: int) -> Tensor:
    """Σ importance · (w − ŵ)² of each block: [O, I] three times -> [O, I/block]."""
    error = (weight.float() - decoded).square_()
    if importance is not None:
        error.mul_(importance)
    return block_sums(error.view(error.shape[0], -1, block))


def choose_blocks(keep: Tensor, ours: Parts, other: Parts) -> Parts:
    """Block by block `ours` where `keep` [O, I/block] is true, else `other`."""

    def pick(a: Tensor, b: Tensor | None) -> Tensor:
        assert b is not None
        return torch.where(keep.repeat_interleave(a.shape[1] // keep.shape[1], 1), a, b)

    def pick_if(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None else pick(a, b)

    return Parts(
        pick(ours.codes, other.codes),
        pick(ours.d, other.d),
        pick_if(ours.m, other.m),
        pick_if(ours.scales, other.scales),
        pick_if(ours.mins, other.mins),
    )
