"""The search for a K-quant's scales, minimums and integers that lose less than ggml's, for the same bytes.

A group's weighted error is quadratic in its scale a and offset b once its steps q are chosen, so five sums tell it for
every (a, b):

    Σ c (x − a·q − b)² = Σ c x² − gain,   gain = 2aP + 2bQ − a²A − 2abB − b²C
    A = Σ c q², B = Σ c q, C = Σ c, P = Σ c q x, Q = Σ c x

The search has three stages:

1. each group's own best (a, b), free of the lattice;
2. of many pairs (d, m), the one whose multiples come nearest to those;
3. rounds in which each group tries the neighbours of its integers with new steps, and d and m are solved for in closed
   form. A block keeps its best state, so no round makes it worse.

Weights are scaled by a power of two into ±1 and costs into 0..1; otherwise sums of squares would leave float32's range.
Pieces are laid out as [weights of a group, groups of a block, blocks]: sums run over the first dimension, which keeps
each inner loop long.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.quant.blocks import PIECE_ELSEWHERE, nearest_steps, to_half
from edgedistill.quant.k_layout import BLOCK, Lattice, group_numbers
from edgedistill.quant.parts import Parts
from edgedistill.quant.steps import Steps

HALF_LEAST = 2.0**-24  # fp16's smallest number above 0
# Weights at a time for each of a processor's threads: enough that calls cost little, few enough for its caches.
PIECE = 1 << 18


@dataclass(frozen=True)
class Piece:
    """Some blocks in the search's own scale.

    weights and costs: [group, groups a block, blocks]. unit: float32 [blocks], what the weights were divided by.
    """

    weights: Tensor
    costs: Tensor | None
    unit: Tensor

    def half(self, scale: Tensor) -> Tensor:
        """A scale float32 [..., blocks] as the file holds it; one that float16 rounds to 0 becomes its least number."""
        stored = to_half(scale * self.unit).float()
        return torch.where((stored == 0) & (scale != 0), scale.sign() * HALF_LEAST, stored) / self.unit


@dataclass(frozen=True)
class State:
    """The numbers of some blocks; m and mins are zeros where the grid has no minimums.

    d and m: float32 [blocks]. scales and mins: integers as float32 [groups a block, blocks].
    """

    d: Tensor
    m: Tensor
    scales: Tensor
    mins: Tensor

    def where(self, keep: Tensor, other: "State") -> "State":
        """Self where `keep` [blocks], else `other`."""
        return State(*(torch.where(keep, a, b) for a, b in zip(self.fields(), other.fields(), strict=True)))

    def fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(d, m, scales, mins)."""
        return self.d, self.m, self.scales, self.mins


def search(
    weight: Tensor, importance: Tensor | None, lattice: Lattice, fit_piece: Callable[[Piece, Lattice], State]
) -> Parts:
    """Fit a weight [O, I] piece by piece: `fit_piece` chooses scales and minimums, the codes are then the nearest.

    importance: what a squared error of each weight costs, [O, I]; None for equal costs.

    Raises:
        ValueError: a row isn't a multiple of 256 weights, or a weight isn't finite.
    """
    rows = weight.shape[0]
    blocks = lattice.saturated(weight).view(-1, BLOCK)
    costs = None if importance is None else importance.reshape(blocks.shape)
    fitted = [_stored(piece, lattice, fit_piece(piece, lattice)) for piece in _pieces(blocks, costs, lattice.group)]
    codes, d, m, scales, mins = (torch.cat(parts).reshape(rows, -1) for parts in zip(*fitted, strict=True))
    if lattice.mins is None:
        return Parts(codes, d, scales=scales.to(torch.int8))
    return Parts(codes, d, m, scales.to(torch.uint8), mins.to(torch.uint8))


def _pieces(blocks: Tensor, importance: Tensor | None, group: int) -> Iterator[Piece]:
    at_once = (PIECE * torch.get_num_threads() if blocks.device.type == "cpu" else PIECE_ELSEWHERE) // BLOCK
    for start in range(0, blocks.shape[0], at_once):
        some = blocks[start : start + at_once]
        # Powers of two: scaling and its undoing are exact.
        unit = torch.ldexp(torch.ones_like(some[:, 0]), torch.frexp(some.abs().amax(-1)).exponent.clamp(-100, 100))
        costs = None
        if importance is not None:
            costs = importance[start : start + at_once].float()
            most = costs.amax(-1, keepdim=True)
            costs = _turned(torch.where(most > 0, costs / most, 1.0), group)
        yield Piece(_turned(some / unit.unsqueeze(-1), group), costs, unit)


def _turned(blocks: Tensor, group: int) -> Tensor:
    """[N, block] -> [group, groups a block, N]."""
    return blocks.view(blocks.shape[0], -1, group).permute(2, 1, 0).contiguous()


def _stored(piece: Piece, lattice: Lattice, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes, d, m, scales and mins of some blocks, [blocks, numbers a block] each."""
    d, m = to_half(state.d * piece.unit), to_half(state.m * piece.unit)
    numbers = group_numbers(Parts(d, d.unsqueeze(1), m.unsqueeze(1), state.scales.T, state.mins.T))
    offset = None if lattice.mins is None else numbers[1]
    grouped = (piece.weights * piece.unit).permute(2, 1, 0)
    codes = lattice.steps.to_codes(nearest_steps(lattice.steps, grouped, numbers[0], offset))
    return codes.flatten(1), d.unsqueeze(1), m.unsqueeze(1), state.scales.T, state.mins.T


@dataclass(frozen=True)
class Sums:
    """A, B and P of a choice of steps, [groups a block, blocks]."""

    squares: Tensor
    steps: Tensor
    products: Tensor

    def where(self, keep: Tensor, other: "Sums") -> "Sums":
        """Self where `keep`, else `other`."""
        return Sums(
            torch.where(keep, self.squares, other.squares),
            torch.where(keep, self.steps, other.steps),
            torch.where(keep, self.products, other.products),
        )


def inverse_of(x: Tensor) -> Tensor:
    """1 / x, and 0 where that is infinite."""
    return x.reciprocal().nan_to_num_(posinf=0.0, neginf=0.0)


def fold(x: Tensor) -> Tensor:
    """The sum over the first dimension, whose length is a power of two, half onto half.

    Torch's own sum groups its additions by the shape and the threads; this one gives a block the same bits in whichever
    piece it lies.
    """
    half = x.shape[0] // 2
    total = x[:half] + x[half:]
    while half > 1:
        half //= 2
        total = total[:half].add_(total[half:])
    return total[0]


def sums_of_nearest(piece: Piece, steps: Steps, scale: Tensor, offset: Tensor | None) -> Sums:
    """The sums for the steps nearest to a scale and an offset [groups a block, blocks]; without an offset B stays 0."""
    inverse = inverse_of(scale)
    chosen = piece.weights * inverse
    if offset is not None:
        chosen -= offset * inverse
    chosen.round_().clamp_(steps.low, steps.high)
    weighted = chosen if piece.costs is None else piece.costs * chosen
    steps_sum = torch.zeros_like(scale) if offset is None else fold(weighted)
    return Sums(fold(weighted * chosen), steps_sum, fold(weighted * piece.weights))
