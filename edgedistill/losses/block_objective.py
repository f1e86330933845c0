"""The part of an objective that looks inside the models: a weighted sum of losses on states and on relations."""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from edgedistill.losses.blocks import BlockNeeds, BlockOutputs, Places
from edgedistill.losses.relations import RelationsLoss
from edgedistill.losses.states import StatesLoss, fitted_projection, projection_name

BlockLoss = StatesLoss | RelationsLoss


class BlockObjective:
    """Σ weight · loss, and the projections that are trained with it."""

    def __init__(self, losses: Sequence[BlockLoss]) -> None:
        """Take the losses.

        Raises:
            ValueError: there is none.
        """
        if not losses:
            raise ValueError("a block objective needs a loss")
        self.losses = tuple(losses)
        self.projections: dict[str, Tensor] = {}

    @property
    def student(self) -> BlockNeeds:
        """What the student's forward pass has to leave."""
        return reduce(or_, (loss.student for loss in self.losses))

    @property
    def teacher(self) -> BlockNeeds:
        """What must be known of the teacher's."""
        return reduce(or_, (loss.teacher for loss in self.losses))

    def fit_projections(self, samples: Iterable[tuple[BlockOutputs, BlockOutputs]]) -> None:
        """Begin with the projections that pairs of unequal width need, fitted to some text.

        Args:
            samples: of some batches, what the student's and the teacher's forward passes left, without a graph; only
                the first is taken where all widths agree.
        """
        taken: list[tuple[BlockOutputs, BlockOutputs]] = []
        for sample in samples:
            taken.append(sample)
            if not self._unequal(*sample):
                return
        for ours, theirs in sorted(self._unequal(*taken[0])):
            states = torch.cat([student.states[ours].float() for student, _ in taken])
            taught = torch.cat([teacher.states[theirs].float() for _, teacher in taken])
            self.projections[projection_name(ours, theirs)] = nn.Parameter(fitted_projection(states, taught))

    def _unequal(self, student: BlockOutputs, teacher: BlockOutputs) -> set[tuple[int, int]]:
        """The pairs of layers whose states have other widths."""
        pairs = [pair for loss in self.losses if isinstance(loss, StatesLoss) for pair in loss.pairs]
        widths = {pair: (student.states[pair[0]].shape[-1], teacher.states[pair[1]].shape[-1]) for pair in pairs}
        return {pair for pair, (ours, theirs) in widths.items() if ours != theirs}

    def summed(self, student: BlockOutputs, teacher: BlockOutputs, places: Places) -> Tensor:
        """The sum over a batch's kept positions, weighted, with its graph; see the losses."""
        parts = [loss.weight * loss.summed(student, teacher, places, self.projections) for loss in self.losses]
        return reduce(Tensor.add, parts)
