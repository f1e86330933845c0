"""The K-quants without minimums (q3_k, q6_k): weight = d·scale·step, both integers signed. The search of `k_search`.

Steps reach one farther below zero than above, and so do the scales; the search tries both signs of each.
"""

import torch
from torch import Tensor

from edgedistill.quant.k_layout import Lattice
from edgedistill.quant.k_search import Piece, State, Sums, fold, inverse_of, sums_of_nearest

# Scales to try for a group, of either sign: the one that brings its largest weight this many steps beyond the lowest
# step, which clips it (below 0: that many short of it). By the grid's lowest step; finer steps have more ways to meet
# the weights that cost most.
OVERS = {
    -4: (-2.7, -2.3, -2.0, -1.5, -1.0, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.3, 1.7, 2.2, 3.0, 4.0),
    -32: tuple(float(over) for over in range(-16, 3)),
}
# The largest scale of a block takes the outermost integer, or one lower by these shares of it (below 0: it is clipped).
TOPS = (-0.015, 0.0, 0.015, 0.03, 0.045, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.32, 0.4, 0.5)
ROUNDS = 2
NEIGHBOURS = (-1, 1, -2, 2)


def fit_piece(piece: Piece, lattice: Lattice) -> State:
    """The search on some blocks."""
    state = _onto_lattice(piece, lattice, _free_groups(piece, lattice))
    for _ in range(ROUNDS):
        state, sums = _try_neighbours(piece, lattice, state)
        state = _solve(piece, lattice, state, sums)
    return state


def _gain(sums: Sums, scale: Tensor) -> Tensor:
    """How much of Σ c x² a scale explains."""
    return scale * (2 * sums.products - scale * sums.squares)


def _free_groups(piece: Piece, lattice: Lattice) -> Tensor:
    """Each group's own best scale, of either sign [groups a block, blocks]."""
    most = piece.weights.abs().amax(0)
    best, best_gain = most, torch.full_like(most, -torch.inf)

    def take(scale: Tensor) -> None:
        nonlocal best, best_gain
        sums = sums_of_nearest(piece, lattice.steps, scale, None)
        solved = sums.products * inverse_of(sums.squares)
        gain = solved * sums.products
        better = gain > best_gain
        best, best_gain = torch.where(better, solved, best), torch.where(better, gain, best_gain)

    for over in OVERS[int(lattice.steps.low)]:
        scale = most / (over - lattice.steps.low)
        take(scale)
        take(-scale)
    take(best)
    return best


def _onto_lattice(piece: Piece, lattice: Lattice, scale: Tensor) -> State:
    """The d among many that explains most with the groups' steps as they are, and the integers beside it."""
    sums = sums_of_nearest(piece, lattice.steps, scale, None)
    lowest, highest = scale.amin(0), scale.amax(0)
    shares = 1 - torch.tensor(TOPS).to(scale.device).view(-1, 1)
    reach, most = torch.where(highest > -lowest, highest, lowest), float(-lattice.scales[0])
    d = piece.half(torch.cat([reach / (most * shares), -reach / (most * shares)]))  # [tries, blocks]
    scales = (scale.unsqueeze(1) * inverse_of(d)).round_().clamp_(*lattice.scales)  # [groups a block, tries, blocks]
    used = scales * d
    best = fold(used * (2 * sums.products.unsqueeze(1) - used * sums.squares.unsqueeze(1))).argmax(0, keepdim=True)
    chosen = scales.gather(1, best.expand(scale.shape[0], 1, -1)).squeeze(1)
    return State(d.gather(0, best).squeeze(0), torch.zeros_like(d[0]), chosen, torch.zeros_like(scale))


def _try_neighbours(piece: Piece, lattice: Lattice, state: State) -> tuple[State, Sums]:
    """Better integers of each group beside the block's d, each with its own nearest steps, and the last steps' sums."""
    d, m, scales, mins = state.fields()
    sums = sums_of_nearest(piece, lattice.steps, scales * d, None)
    best = _gain(sums, scales * d)
    for change in NEIGHBOURS:
        tried = (scales + change).clamp_(*lattice.scales)
        others = sums_of_nearest(piece, lattice.steps, tried * d, None)
        gain = _gain(others, tried * d)
        better = gain > best
        scales = torch.where(better, tried, scales)
        best = torch.where(better, gain, best)
        sums = others.where(better, sums)
    return State(d, m, scales, mins), sums


def _solve(piece: Piece, lattice: Lattice, state: State, sums: Sums) -> State:
    """The d of least error for the integers and steps; a block that fp16 or new steps make worse keeps its own."""
    d, m, scales, mins = state.fields()
    best_d = fold(sums.products * scales) * inverse_of(fold(sums.squares * scales * scales))
    solved = State(piece.half(best_d), m, scales, mins)
    return solved.where(_total_gain(piece, lattice, solved) > _total_gain(piece, lattice, state), state)


def _total_gain(piece: Piece, lattice: Lattice, state: State) -> Tensor:
    """The gain of a state with its own nearest steps, over all groups of each block: [blocks]."""
    scale = state.scales * state.d
    return fold(_gain(sums_of_nearest(piece, lattice.steps, scale, None), scale))
