"""`k_search` for the K-quants with a minimum in each group (q2_k, q4_k, q5_k).

Their weight is d·scale·q − m·minimum, with q from 0 up.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.quant.k_layout import Lattice
from edgedistill.quant.k_search import Piece, State, Sums, fold, inverse_of, sums_of_nearest

# Where a group's steps may start and end, tried in all pairs, by the grid's highest step: this many steps within the
# group's range (below 0: outside of it). A candidate wins when its steps happen to meet the weights that cost most, so
# finer steps are worth more candidates.
TRIMS = {3: (-0.6, -0.2, 0.2, 0.6, 1.0), 15: (-1.0, -0.5, 0.0, 0.5, 1.0), 31: (-2.0, -1.3, -0.6, 0.0, 0.6)}
# The largest scale of a block takes the highest integer, or one lower by these 63rds of it (below 0: it is clipped).
TOPS = (-30.0, -10.0, -0.6, -0.3, 0.0, 0.3, 0.7, 1.2, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 16.0, 21.0, 27.0)
ROUNDS = 2
# Neighbours of a group's integers: change of the scale, and of the minimum, None for the best one beside that scale.
NEIGHBOURS: tuple[tuple[int, int | None], ...] = ((-1, None), (1, None), (-2, None), (2, None), (0, -1), (0, 1))


@dataclass(frozen=True)
class Fixed:
    """The sums that don't depend on the steps: C and Q [groups a block, blocks]."""

    costs: Tensor
    weights: Tensor

    @classmethod
    def of(cls, piece: Piece) -> "Fixed":
        """Sum them up."""
        if piece.costs is None:
            weights = fold(piece.weights)
            return cls(torch.full_like(weights, piece.weights.shape[0]), weights)
        return cls(fold(piece.costs), fold(piece.costs * piece.weights))

    def gain(self, sums: Sums, scale: Tensor, offset: Tensor) -> Tensor:
        """How much of Σ c x² a scale and an offset explain."""
        along = scale * (2 * sums.products - scale * sums.squares)
        return along + offset * (2 * (self.weights - scale * sums.steps) - offset * self.costs)

    def best_minimum(self, sums: Sums, scale: Tensor, m: Tensor, top: int) -> Tensor:
        """The integer minimum of least error beside a scale."""
        return ((scale * sums.steps - self.weights) * inverse_of(self.costs * m)).round_().clamp_(0, top)


def fit_piece(piece: Piece, lattice: Lattice) -> State:
    """The search on some blocks."""
    fixed = Fixed.of(piece)
    state = _onto_lattice(piece, fixed, lattice, *_free_groups(piece, fixed, lattice))
    for _ in range(ROUNDS):
        state, sums = _try_neighbours(piece, fixed, lattice, state)
        state = _solve(piece, fixed, lattice, state, sums)
    return state


def _free_groups(piece: Piece, fixed: Fixed, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Each group's own best scale and offset (never above 0)."""
    low, high = piece.weights.amin(0).clamp_max_(0), piece.weights.amax(0)
    width = (high - low).clamp_min_(1e-12)
    step = width / lattice.steps.high
    best, best_gain = (step, low), torch.full_like(step, -torch.inf)

    def take(scale: Tensor, offset: Tensor) -> None:
        nonlocal best, best_gain
        sums = sums_of_nearest(piece, lattice.steps, scale, offset)
        solved = _least_squares(fixed, sums)
        gain = fixed.gain(sums, *solved)
        better = gain > best_gain
        best = (torch.where(better, solved[0], best[0]), torch.where(better, solved[1], best[1]))
        best_gain = torch.where(better, gain, best_gain)

    for first, last in itertools.product(TRIMS[int(lattice.steps.high)], repeat=2):
        step = width / (lattice.steps.high + first + last)
        take(step, low + step * first)
    take(*best)
    return best


def _least_squares(fixed: Fixed, sums: Sums) -> tuple[Tensor, Tensor]:
    """Scale and offset of least error for given steps, the offset held at or below 0."""
    determinant = sums.squares * fixed.costs - sums.steps * sums.steps
    # Otherwise all steps are equal, and one number is enough: the scale or the offset, whichever may have the sign.
    sound = determinant > 1e-6 * sums.squares * fixed.costs
    inverse = torch.where(sound, inverse_of(determinant), 0.0)
    scale = (fixed.costs * sums.products - sums.steps * fixed.weights) * inverse
    offset = (sums.squares * fixed.weights - sums.steps * sums.products) * inverse
    level = ~sound & (fixed.weights < 0)
    alone = ~level & (~sound | (offset > 0))
    return (
        torch.where(alone, sums.products * inverse_of(sums.squares), scale),
        torch.where(alone, 0.0, torch.where(level, fixed.weights * inverse_of(fixed.costs), offset)),
    )


def _onto_lattice(piece: Piece, fixed: Fixed, lattice: Lattice, scale: Tensor, offset: Tensor) -> State:
    """Of many pairs d and m, the one that explains most with the groups' steps as they are; the integers beside it."""
    assert lattice.mins is not None
    sums = sums_of_nearest(piece, lattice.steps, scale, offset)
    tops = torch.tensor(TOPS).to(scale.device).view(-1, 1) * (lattice.scales[1] / 63)
    tried_d = piece.half(scale.amax(0) / (lattice.scales[1] - tops))  # [tries, blocks]
    tried_m = piece.half((-offset).amax(0) / (lattice.mins[1] - tops))
    # Below, [groups a block, tries of m, blocks].
    costs = fixed.costs.unsqueeze(1)
    inverse = inverse_of(costs * tried_m)
    best: State | None = None
    best_gain = torch.empty(0)
    for d in tried_d:
        scales = (scale * inverse_of(d)).round_().clamp_(*lattice.scales)
        used = scales * d
        left = (fixed.weights - used * sums.steps).unsqueeze(1)
        mins = (inverse * -left).round_().clamp_(*lattice.mins)
        offsets = mins * -tried_m
        gain = fold(offsets * (2 * left - offsets * costs))  # [tries, blocks]
        at = gain.argmax(0, keepdim=True)
        total = gain.gather(0, at).squeeze(0) + fold(used * (2 * sums.products - used * sums.squares))
        m = tried_m.gather(0, at).squeeze(0)
        tried = State(d, m, scales, mins.gather(1, at.expand(scale.shape[0], 1, -1)).squeeze(1))
        if best is None:
            best, best_gain = tried, total
        else:
            best, best_gain = tried.where(total > best_gain, best), torch.maximum(total, best_gain)
    assert best is not None
    return best


def _try_neighbours(piece: Piece, fixed: Fixed, lattice: Lattice, state: State) -> tuple[State, Sums]:
    """Better integers of each group beside the block's d and m, each with its own nearest steps; and the last sums."""
    assert lattice.mins is not None
    d, m, scales, mins = state.fields()
    sums = sums_of_nearest(piece, lattice.steps, scales * d, mins * -m)
    mins = fixed.best_minimum(sums, scales * d, m, lattice.mins[1])
    best = fixed.gain(sums, scales * d, mins * -m)
    for by_scale, by_min in NEIGHBOURS:
        tried = (scales + by_scale).clamp_(*lattice.scales)
        scale = tried * d
        if by_min is None:
            least = fixed.best_minimum(sums, scale, m, lattice.mins[1])
        else:
            least = (mins + by_min).clamp_(*lattice.mins)
        others = sums_of_nearest(piece, lattice.steps, scale, least * -m)
        if by_min is None:
            least = fixed.best_minimum(others, scale, m, lattice.mins[1])
        gain = fixed.gain(others, scale, least * -m)
        better = gain > best
        scales = torch.where(better, tried, scales)
        mins = torch.where(better, least, mins)
        best = torch.where(better, gain, best)
        sums = others.where(better, sums)
    return State(d, m, scales, mins), sums


def _solve(piece: Piece, fixed: Fixed, lattice: Lattice, state: State, sums: Sums) -> State:
    """d and m of least error for the integers and steps; a block that fp16 or new steps make worse keeps its own."""
    d, m, scales, mins = state.fields()
    dd, dm, mm = fold(sums.squares * scales * scales), fold(sums.steps * scales * mins), fold(fixed.costs * mins * mins)
    along, across = fold(sums.products * scales), fold(fixed.weights * mins)
    determinant = dd * mm - dm * dm
    sound = determinant > 1e-6 * dd * mm
    inverse = torch.where(sound, inverse_of(determinant), 0.0)
    solved = State(
        piece.half(torch.where(sound, (mm * along - dm * across) * inverse, (along + dm * m) * inverse_of(dd))),
        piece.half(torch.where(sound, (dm * along - dd * across) * inverse, m)),
        scales,
        mins,
    )
    return solved.where(_gain(piece, fixed, lattice, solved) > _gain(piece, fixed, lattice, state), state)


def _gain(piece: Piece, fixed: Fixed, lattice: Lattice, state: State) -> Tensor:
    scale, offset = state.scales * state.d, state.mins * -state.m
    return fold(fixed.gain(sums_of_nearest(piece, lattice.steps, scale, offset), scale, offset))
