"""A phase: one training of the student in float, towards its teacher or its text.

The phases of a recipe follow each other; each is a stage of its own, which begins with the student that the one before
left.
"""

from typing import Literal

from pydantic import Field

from edgedistill.config.fields import PositiveFloat, PositiveInt
from edgedistill.config.loss import DEFAULT_LOSS, DivergenceTerm, Loss
from edgedistill.config.training import Training


class Phase(Training):
    """How the student is trained in float. Rates are peaks."""

    train: Literal["student"] = Field(default="student", description="Whose weights are trained.")
    tokens: PositiveInt = Field(default=60_000, description="Training tokens.")
    batch_tokens: PositiveInt = Field(default=1024, description="Tokens of a step; a multiple of seq_len.")
    learning_rate: PositiveFloat = Field(default=2.0e-4, description="Of all weights.")
    loss: Loss = Field(
        default=DEFAULT_LOSS,
        description="Terms that are added up, or the short form {forward_kl: 0.9, cross_entropy: 0.1}.",
    )

    @property
    def compares(self) -> bool:
        """Whether a term compares with the teacher's distribution; else the text alone is learned."""
        return any(isinstance(term, DivergenceTerm) for term in self.loss)


def stage_of(index: int) -> str:
    """The name of a phase's stage, phases counted from 0: distill, distill-2, distill-3."""
    return "distill" if index == 0 else f"distill-{index + 1}"
