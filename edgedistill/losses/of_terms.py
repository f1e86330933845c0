"""From a recipe's terms that look inside the models to their losses, for one student and one teacher. No torch of its
own: the planner doesn't come here, but what it decides is in numbers alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgedistill.config.block_terms import BlockTerm, RelationsTerm, StatesTerm
from edgedistill.facts import ModelShape
from edgedistill.losses.block_objective import BlockLoss, BlockObjective
from edgedistill.losses.relations import RelationsLoss
from edgedistill.losses.states import StatesLoss


@dataclass(frozen=True)
class Pairing:
    """Student and teacher.

    Attributes:
        student, teacher: their shapes.
        state: the student's layer -> the teacher's, whose states are compared.
        block: the student's block -> the teacher's, whose attention is.
    """

    student: ModelShape
    teacher: ModelShape
    state: Callable[[int], int]
    block: Callable[[int], int]


def block_objective(terms: Sequence[BlockTerm], pairing: Pairing) -> BlockObjective:
    """The objective of a recipe's terms."""
    losses: list[BlockLoss] = []
    for term in terms:
        losses.append(_states(term, pairing) if isinstance(term, StatesTerm) else _relations(term, pairing))
    return BlockObjective(losses)


def _states(term: StatesTerm, pairing: Pairing) -> StatesLoss:
    layers = term.layers or (pairing.student.layers,)
    taught = term.teacher_layers or tuple(map(pairing.state, layers))
    return StatesLoss(term.states, tuple(zip(layers, taught, strict=True)), term.weight)


def _relations(term: RelationsTerm, pairing: Pairing) -> RelationsLoss:
    block = term.layer or pairing.student.layers
    taught = term.teacher_layer or pairing.block(block)
    heads = term.heads or whole_heads(term, pairing)
    return RelationsLoss(term.relations, block, taught, heads, term.weight)


def whole_heads(term: RelationsTerm, pairing: Pairing) -> int:
    """The most relation heads that cut no head of either model."""
    counts = [width // shape.head_dim for shape in (pairing.student, pairing.teacher) for width in term.widths(shape)]
    return math.gcd(*counts)
