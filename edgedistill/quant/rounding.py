"""Rounding as ggml's C code does it, shared by the grids."""

import functools

import torch
from torch import Tensor

FINITE_PIECE = 1 << 22  # elements at a time


def round_half_away(x: Tensor) -> Tensor:
    """C's roundf: halves go away from zero. trunc(x + 0.5) is not that: it sends 0.49999997 to 1.

    The sum with 0.0 turns -0.0 into 0.0, which an integer code doesn't have.
    """
    whole = x.trunc()
    return whole + (2 * (x - whole)).trunc() + 0.0


def safe_inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0, as ggml's `id = d ? 1.0f/d : 0.0f`.

    Below 2^-128, where C's is infinite, ours is float32's largest number: infinity times 0 is no code.
    """
    return torch.where(x == 0, 0.0, 1.0 / x).clamp_(-torch.finfo(x.dtype).max, torch.finfo(x.dtype).max)


def check_finite(weight: Tensor, grid: str) -> None:
    """Raise ValueError where a weight is NaN or infinite: no grid holds one, and a runtime would spread it."""
    if not all_finite(weight):
        bad = (~torch.isfinite(weight)).nonzero()[0].tolist()
        raise ValueError(
            f"{grid} can't hold the value {weight[tuple(bad)].item()} at {bad}; all weights must be finite numbers"
        )


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; looked at in pieces, for the answer takes twice the tensor's memory."""
    return all(bool(torch.isfinite(piece).all()) for piece in tensor.reshape(-1).split(FINITE_PIECE))


def block_sums(x: Tensor) -> Tensor:
    """[..., block] -> [...] by a product with ones; torch's sum over a short last dimension is tens of times slower."""
    return x @ _ones(x.shape[-1], x.dtype, x.device)


@functools.cache
def _ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=dtype, device=device)
