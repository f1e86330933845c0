"""The search that finds better scales than ggml's for blocks of 32: one scale a block, or a scale and an offset.

Each candidate gives nearest steps s. For these the weighted error Σ c (w − d·s − m)² is quadratic in d and m, and its
normal equations give the least one:

    without an offset   d = P/A
    with one            d = (C·P − B·Q) / (C·A − B²), m = (Q − d·B) / C
    where               A = Σ c s², B = Σ c s, C = Σ c, P = Σ c s w, Q = Σ c w

The error is then Σ c w² less d·P (+ m·Q). The best candidate is refined in the same way.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from edgedistill.quant.blocks import nearest_steps, to_half
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import block_sums, safe_inverse
from edgedistill.quant.steps import Steps

# Candidate scales as shares of the one that reaches the largest weight. Clipping it (below 1) often pays, and far below
# where that weight costs little; a little above 1 the weights may fall on steps better.
CANDIDATES = (0.5, 0.6, 0.68, 0.75, 0.81, 0.86, 0.9, 0.94, 0.98, 1.02, 1.06, 1.1, 1.15, 1.2)
ROUNDS = 2  # of nearest codes and least squares, after the search


def fit_scale(blocks: Tensor, importance: Tensor | None, start: Tensor, steps: Steps) -> Parts:
    """The scale of least weighted error in the search, and the nearest codes.

    Args:
        blocks: weights float32 [O, I/block, block].
        importance: costs float32 [O, I]; None for equal ones.
        start: the scale that reaches the largest weight: [O, I/block].
    """
    costs = None if importance is None else importance.view_as(blocks)
    weighted = blocks if costs is None else costs * blocks
    best, best_gain = start, torch.full_like(start, -1.0)
    # Where steps reach farther on one side of zero (q4_0's -8..7), a scale of the other sign may serve the block
    # better: it brings the largest weight to the highest step.
    reaches = (1.0,) if steps.low == -steps.high else (1.0, steps.low / steps.high)
    for share in (reach * candidate for candidate in CANDIDATES for reach in reaches):
        scale, gain = _least_squares(blocks, costs, weighted, to_half(start * share).float(), steps)
        better = gain > best_gain
        best, best_gain = torch.where(better, scale, best), torch.where(better, gain, best_gain)
    for _ in range(ROUNDS):
        best, _ = _least_squares(blocks, costs, weighted, to_half(best).float(), steps)
    d = to_half(best)
    return Parts(steps.to_codes(nearest_steps(steps, blocks, d.float(), None)).flatten(1), d)


def _least_squares(
    blocks: Tensor, costs: Tensor | None, weighted: Tensor, scale: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """The best scale for the steps that `scale` gives, and the weighted error that it saves over zeros.

    Both are [O, I/block].
    """
    chosen = steps.nearest_(blocks * safe_inverse(scale).unsqueeze(-1))
    along = block_sums(weighted * chosen)
    chosen = chosen.square_() if costs is None else chosen.square_().mul_(costs)
    across = block_sums(chosen).clamp_min_(1e-30)
    solved = along / across
    return torch.where(across > 1e-30, solved, scale), along * solved


def fit_scale_and_offset(blocks: Tensor, importance: Tensor | None, steps: Steps) -> Parts:
    """The scale and offset of least weighted error in the search, and the nearest codes; steps from 0 on.

    Args:
        blocks: weights float32 [O, I/block, block].
        importance: costs float32 [O, I]; None for equal ones.
    """
    low, high = blocks.amin(-1), blocks.amax(-1)
    middle = (low + high) / 2
    # Around its middle a block's weights are small numbers, and the normal equations well conditioned.
    centred = blocks - middle.unsqueeze(-1)
    plane = _Plane(centred, None if importance is None else importance.view_as(blocks), steps)
    scale, offset = (high - low) / steps.high, low - middle
    best_gain = torch.full_like(scale, -1.0)
    for candidate in _clipped(low - middle, high - middle, steps):
        tried_scale, tried_offset, gain = plane.least_squares(*candidate)
        better = gain > best_gain
        scale = torch.where(better, tried_scale, scale)
        offset = torch.where(better, tried_offset, offset)
        best_gain = torch.where(better, gain, best_gain)
    for _ in range(ROUNDS):
        scale, offset, _ = plane.least_squares(to_half(scale).float(), to_half(offset + middle).float() - middle)
    d, m = to_half(scale), to_half(offset + middle)
    return Parts(steps.to_codes(nearest_steps(steps, blocks, d.float(), m.float())).flatten(1), d, m)


def _clipped(low: Tensor, high: Tensor, steps: Steps) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and offsets whose steps cover a share of the range: at its bottom, in its middle or at its top."""
    for share in CANDIDATES:
        scale = (high - low) * (share / steps.high)
        for at in (0.0, 0.5, 1.0):
            yield scale, low + (high - low) * ((1 - share) * at)


class _Plane:
    """Least squares in scale and offset for blocks float32 [O, I/block, block]."""

    def __init__(self, blocks: Tensor, costs: Tensor | None, steps: Steps) -> None:
        self.blocks, self.costs, self.steps = blocks, costs, steps
        self.weighted = blocks if costs is None else costs * blocks
        self.c = block_sums(torch.ones_like(blocks) if costs is None else costs)
        self.q = block_sums(self.weighted)

    def least_squares(self, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best scale and offset for the steps that these give, and the weighted error that they save over zeros."""
        chosen = nearest_steps(self.steps, self.blocks, scale, offset)
        p = block_sums(self.weighted * chosen)
        weighted = chosen if self.costs is None else self.costs * chosen
        b = block_sums(weighted)
        a = block_sums(chosen.square_() if self.costs is None else chosen.mul_(weighted))
        spread = self.c * a - b * b
        solvable = spread > 1e-6 * self.c * a  # else (almost) all weights took one step
        best_scale = torch.where(solvable, (self.c * p - b * self.q) / spread, scale)
        best_offset = torch.where(solvable, (self.q - best_scale * b) / self.c, offset)
        return best_scale, best_offset, torch.where(solvable, best_scale * p + best_offset * self.q, -1.0)
