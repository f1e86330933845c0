"""Objective: what a training minimises, as a weighted sum of terms, each a loss against one of its sources.

A source gives a teacher's view of a batch (`signals.sources`); a term names the source that it compares with. The
objective doesn't know how a source gets its view, nor a source what the view is used for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edgedistill.config.loss import DivergenceTerm, GridTerm, OnGrid, Term, TextTerm
from edgedistill.losses.choose import CROSS_ENTROPY, make_loss
from edgedistill.losses.head import HeadLoss, head_loss
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, Teacher
from edgedistill.losses.weighted import Weighted

STUDENT, TEACHER, TEXT = "student", "teacher", "text"  # the sources that a recipe's terms compare with


@dataclass(frozen=True)
class ObjectiveTerm:
    """One term.

    Attributes:
        source: the name of the source that it compares with.
        loss: one of `losses.choose.LOSSES`.
        weight: what it is multiplied by.
        settings: of the loss, as `make_loss` takes them.
        renormalized: whether a teacher of whom the likeliest words are known is compared on these alone.
    """

    source: str
    loss: str
    weight: float = 1.0
    settings: Mapping[str, float] = field(default_factory=dict)
    renormalized: bool = False

    def against(self, teacher: Teacher) -> HeadLoss:
        """The loss against what the source says of N tokens."""
        return make_loss(self.loss, teacher, renormalized=self.renormalized, **self.settings)


class Objective:
    """Σ weight · loss over its terms."""

    def __init__(self, terms: Sequence[ObjectiveTerm]) -> None:
        """Take the terms; those of weight 0 are left out.

        Raises:
            ValueError: none is left.
        """
        self.terms = tuple(term for term in terms if term.weight != 0)
        if not self.terms:
            raise ValueError("an objective needs a term with a weight above 0")

    @property
    def needs(self) -> frozenset[str]:
        """The names of the sources that it compares with."""
        return frozenset(term.source for term in self.terms)

    def loss(self, views: Mapping[str, Teacher]) -> HeadLoss:
        """The loss of N tokens.

        Args:
            views: what each of the sources in `needs` says of the tokens.
        """
        parts = [(term.weight, term.against(views[term.source])) for term in self.terms]
        if len(parts) == 1 and parts[0][0] == 1.0:
            return parts[0][1]
        return Weighted(parts)

    def step(
        self, hidden: Tensor, head: Tensor, views: Mapping[str, Teacher], token_weights: Tensor
    ) -> tuple[Tensor, float]:
        """The weighted sum of the loss over a batch with its graph, and the sum of the weights.

        Their quotient is the mean in nats per token; of several batches, sums and weights add up.

        Args:
            hidden: [N, D] the student's last hidden states at the kept positions.
            head: [V, D] its output matrix, of the same type. A teacher with fewer rows is compared on these alone.
            views: as `loss` takes them.
            token_weights: [N] how much each position counts.
        """
        mean = head_loss(hidden, head[: rows_of(views.values(), len(head))], self.loss(views), token_weights)
        total = float(token_weights.sum())
        return mean * total, total


def rows_of(views: Iterable[Teacher], rows: int) -> int:
    """The rows of the output matrix that every teacher whose whole distribution is known has too."""
    for view in views:
        if isinstance(view, ExactTeacher):
            rows = min(rows, len(view.weight))
        elif isinstance(view, LiveLogits):
            rows = min(rows, view.all_logits.shape[-1])
    return rows


def of_recipe(loss: Sequence[Term | OnGrid]) -> Objective:
    """The objective that a recipe's terms on logits say: divergences from TEACHER, or on the grid from the model that
    the term goes towards, and cross-entropy on TEXT. Terms that look inside the models are `losses.of_terms`'s.

    Raises:
        ValueError: there is no term on logits.
    """
    terms: list[ObjectiveTerm] = []
    for term in loss:
        if isinstance(term, DivergenceTerm):
            source = term.towards if isinstance(term, GridTerm) else TEACHER
            terms.append(ObjectiveTerm(source, term.name, term.weight, term.settings, term.renormalized))
        elif isinstance(term, TextTerm):
            terms.append(ObjectiveTerm(TEXT, CROSS_ENTROPY, term.weight))
    return Objective(terms)
