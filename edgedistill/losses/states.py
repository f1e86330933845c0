"""Distances between hidden states of a student and a teacher: cosine, and mean square through a learned projection.

cosine   1 − s·t / (|s| |t|), torch's CosineEmbeddingLoss for pairs that should agree: DistilBERT's third term
         (Sanh et al. 2019, arXiv 1910.01108, section 2), there of the last hidden states.
mse      mean over the width of (W s − t)²: TinyBERT's loss on hidden states (Jiao et al. 2020, arXiv 1909.10351,
         section 3.1); without W where the widths agree.

Where the student is narrower or wider than the teacher, both go through W [teacher's width, student's], which is
trained along with the student and isn't part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.losses.blocks import BlockNeeds, BlockOutputs, Places, needs_of, weighted_sum

SMALLEST_SQUARE = 1e-12  # added to squared lengths, as CosineEmbeddingLoss does, so that 0 has a direction
RIDGE = 1e-2  # of the mean square of the student's states, added where a projection is fitted to few tokens


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine of each of N pairs, [N] from 0 to 2.

    Args:
        student, teacher: [N, D] float32 or float64.
    """
    along = torch.linalg.vecdot(student, teacher)
    lengths = (student.square().sum(-1) + SMALLEST_SQUARE) * (teacher.square().sum(-1) + SMALLEST_SQUARE)
    return 1 - along / lengths.sqrt()


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the squared differences of each of N pairs, [N]. `student`, `teacher`: [N, D]."""
    return (student - teacher).square().mean(-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "mse": mean_square}


@dataclass(frozen=True)
class StatesLoss:
    """Σ over pairs of layers of the distance between their states.

    Attributes:
        distance: one of DISTANCES.
        pairs: (the student's layer, the teacher's).
        weight: what it is multiplied by.
    """

    distance: str
    pairs: tuple[tuple[int, int], ...]
    weight: float = 1.0

    @property
    def student(self) -> BlockNeeds:
        """What it looks at in the student."""
        return needs_of([layer for layer, _ in self.pairs], [])

    @property
    def teacher(self) -> BlockNeeds:
        """What it looks at in the teacher."""
        return needs_of([layer for _, layer in self.pairs], [])

    def summed(
        self, student: BlockOutputs, teacher: BlockOutputs, places: Places, projections: Mapping[str, Tensor]
    ) -> Tensor:
        """Its sum over the kept positions, weighted, without `weight`; with its graph.

        Args:
            student, teacher: what their forward passes left.
            places: the kept positions' weights.
            projections: by `projection_name`, [teacher's width, student's] for pairs of unequal width.
        """
        distance = DISTANCES[self.distance]
        total = torch.zeros((), dtype=torch.float32, device=places.weights.device)
        for layer, taught in self.pairs:
            ours, theirs = at_least_float32(student.states[layer]), at_least_float32(teacher.states[taught])
            projection = projections.get(projection_name(layer, taught))
            if projection is not None:
                ours = ours @ projection.T.to(ours.dtype)
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"hidden states {tuple(ours.shape)} of the student and {tuple(theirs.shape)} of the teacher need "
                    "one shape, or a projection"
                )
            total = total + weighted_sum(distance(ours, theirs), places.weights)
        return total


def projection_name(student: int, teacher: int) -> str:
    """What the projection of a pair of layers is called in a checkpoint."""
    return f"projection.{student}-{teacher}"


def fitted_projection(student: Tensor, teacher: Tensor) -> Tensor:
    """The W [D_teacher, D_student], float32, that least squares would take: where training begins.

    A random one would first pull the student into a random direction. Ridge regression, since D tokens may be more
    than there are: W = Tᵀ S (Sᵀ S + λ)⁻¹ in float64.

    Args:
        student: [N, D_student]; `teacher` [N, D_teacher].
    """
    s, t = student.double(), teacher.double()
    square = s.T @ s
    square.diagonal().add_(RIDGE * square.diagonal().mean().clamp_min(1e-30))
    return torch.linalg.solve(square, s.T @ t).T.float().contiguous()


def at_least_float32(states: Tensor) -> Tensor:
    """The same in float32, or in float64 where it was."""
    return states if states.dtype == torch.float64 else states.float()
