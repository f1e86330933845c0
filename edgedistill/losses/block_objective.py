"""The part of an objective that looks inside the models: a weighted sum of losses on states and on relations."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

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

    def fit_projections(self, student: BlockOutputs, teacher: BlockOutputs) -> None:
        """Begin with the projections that pairs of unequal width need, fitted to some text.

        Args:
            student, teacher: what their forward passes left of it, without a graph.
        """
        for loss in self.losses:
            for ours, theirs in loss.pairs if isinstance(loss, StatesLoss) else ():
                states, taught = student.states[ours], teacher.states[theirs]
                if states.shape[-1] != taught.shape[-1]:
                    self.projections[projection_name(ours, theirs)] = nn.Parameter(fitted_projection(states, taught))

    def summed(self, student: BlockOutputs, teacher: BlockOutputs, places: Places) -> Tensor:
        """The sum over a batch's kept positions, weighted, with its graph; see the losses."""
        parts = [loss.weight * loss.summed(student, teacher, places, self.projections) for loss in self.losses]
        return reduce(Tensor.add, parts)
