"""Attention relations: how alike a block's queries (keys, values) are to each other, and how far the teacher's
relations are from the student's.

The heads are laid end to end and cut into A relation heads of d elements. Of each, R = softmax(X Xᵀ / √d) by rows, and
the loss of a row is the KL divergence of the teacher's R from the student's, averaged over the relation heads and
added up over the relations (MiniLM v2, Wang et al. 2021, arXiv 2012.15828, section 3.1). Since rows are compared
and not vectors, widths and numbers of heads may differ.
Two things differ from the paper, whose models see both ways: a row holds a token and those before it alone, and
queries and keys are taken behind the rotary embedding, as attention multiplies them. Documents of a packed row don't
see each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.losses.blocks import BlockNeeds, BlockOutputs, Places, needs_of, weighted_sum
from edgedistill.losses.states import at_least_float32


def relation_kl(student: Tensor, teacher: Tensor, heads: int, rows: Tensor) -> Tensor:
    """KL(teacher's relations ‖ student's) of some rows of one document, in nats, averaged over the relation heads.

    Args:
        student: [n, W] vectors of all tokens of the document; `teacher` [n, W'].
        heads: relation heads, which divide both widths.
        rows: [m] indices of the tokens whose rows are compared.
    Returns:
        [m], 0 for a document's first token, which sees itself alone.
    Raises:
        ValueError: the heads don't divide a width, or the documents have other lengths.
    """
    if len(student) != len(teacher):
        raise ValueError(f"relations among {len(student)} tokens can't be compared with those among {len(teacher)}")
    hidden = torch.arange(len(student), device=student.device) > rows.unsqueeze(-1)
    log_q, log_p = _log_relations(student, heads, rows, hidden), _log_relations(teacher, heads, rows, hidden)
    difference = (log_p - log_q).masked_fill(hidden, 0.0)
    return (log_p.exp() * difference).sum(-1).mean(0)


def _log_relations(vectors: Tensor, heads: int, rows: Tensor, hidden: Tensor) -> Tensor:
    """[A, m, n] the logarithms of the relations; −inf where a token doesn't see another."""
    tokens, width = vectors.shape
    if width % heads:
        raise ValueError(f"{heads} relation heads don't divide vectors of {width} elements")
    split = at_least_float32(vectors).view(tokens, heads, width // heads).transpose(0, 1)
    scores = split[:, rows] @ split.transpose(1, 2) * (width // heads) ** -0.5
    return torch.log_softmax(scores.masked_fill(hidden, float("-inf")), -1)


@dataclass(frozen=True)
class RelationsLoss:
    """Σ over relations of the KL between their rows.

    Attributes:
        relations: of "qq", "kk", "vv".
        student_block, teacher_block: the blocks that are compared, counted from 1.
        heads: relation heads.
        weight: what it is multiplied by.
    """

    relations: tuple[str, ...]
    student_block: int
    teacher_block: int
    heads: int
    weight: float = 1.0

    @property
    def student(self) -> BlockNeeds:
        """What it looks at in the student."""
        return needs_of([], [self.student_block])

    @property
    def teacher(self) -> BlockNeeds:
        """What it looks at in the teacher."""
        return needs_of([], [self.teacher_block])

    def summed(
        self, student: BlockOutputs, teacher: BlockOutputs, places: Places, projections: Mapping[str, Tensor]
    ) -> Tensor:
        """Its sum over the kept positions, weighted, without `weight`; with its graph.

        Args:
            student, teacher: what their forward passes left.
            places: documents, kept positions and their weights.
            projections: not needed.
        """
        ours, theirs = student.attention[self.student_block], teacher.attention[self.teacher_block]
        total = torch.zeros((), dtype=torch.float32, device=places.weights.device)
        start = 0
        for length in places.documents:
            stop = start + length
            within = (places.kept >= start) & (places.kept < stop)
            rows, weights = places.kept[within] - start, places.weights[within]
            for relation in self.relations if len(rows) else ():
                pair = ours.vectors(relation)[start:stop], theirs.vectors(relation)[start:stop]
                total = total + weighted_sum(relation_kl(*pair, self.heads, rows), weights)
            start = stop
        return total
