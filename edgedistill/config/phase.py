"""A phase: one training in float, of the teacher on labelled answers, or of the student towards its teacher.

The phases of a recipe follow each other; each is a stage of its own, which begins with the model that the one before
left. Those of the teacher come first: it writes and scores as they leave it.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from edgedistill.config.adapter import Adapter
from edgedistill.config.block_terms import BlockTerm, RelationsTerm, StatesTerm
from edgedistill.config.fields import PositiveFloat, PositiveInt, Share
from edgedistill.config.loss import DEFAULT_LOSS, DivergenceTerm, Loss, TextTerm
from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.training import Training

SHUFFLED, SHORT_FIRST, EASY_FIRST = "shuffled", "short_first", "easy_first"


class Phase(Training):
    """How a model is trained in float. Rates are peaks."""

    train: Literal["student", "teacher"] = Field(
        default="student",
        description=(
            "Whose weights are trained. teacher: it learns the answers that the task's rows or teach.prompts bring, "
            "before it writes and scores."
        ),
    )
    tokens: PositiveInt = Field(default=60_000, description="Training tokens.")
    batch_tokens: PositiveInt = Field(default=1024, description="Tokens of a step; a multiple of seq_len.")
    learning_rate: PositiveFloat = Field(default=2.0e-4, description="Of all weights.")
    loss: Loss = Field(
        default=DEFAULT_LOSS,
        description=(
            "Terms that are added up; or the short form {forward_kl: 0.9, cross_entropy: 0.1}, or distilbert: its "
            "three terms with its weights."
        ),
    )

    general: Share | None = Field(
        default=None,
        description=(
            "Share of the rows that are prose and free text, against forgetting; the others are chats. null: all rows "
            "alike, as teach made them."
        ),
    )
    order: Literal["shuffled", "short_first", "easy_first"] = Field(
        default="shuffled",
        description=(
            "Of the rows. short_first: from the shortest texts on; easy_first: from those that the teacher finds "
            "likeliest on; half of the training opens up to all of them."
        ),
    )

    on_policy: OnPolicy | None = Field(
        default=None,
        description=(
            "Rounds in which the student writes answers to the training prompts itself, in llama.cpp, and the teacher "
            "scores them; null: the training text is all there is."
        ),
    )

    adapter: Adapter | None = Field(
        default=None,
        description=(
            "Low-rank matrices that are trained through peft in place of the weights, and merged at the phase's end; "
            "null: all weights of the layers are trained."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _labels_teach(cls, given: Any) -> Any:
        """A teacher's phase whose loss is left open learns from the text alone."""
        if isinstance(given, dict) and given.get("train") == "teacher":
            return {"loss": [{"text": True}], **given}
        return given

    @model_validator(mode="after")
    def _together(self) -> "Phase":
        if self.train == "teacher" and not all(isinstance(term, TextTerm) for term in self.loss):
            raise ValueError(
                "train is teacher, and a term of loss compares with the teacher; leave loss out, or write "
                "loss: [{text: true}]"
            )
        if self.on_policy is not None and not (self.compares or self.block_terms):
            raise ValueError(
                "on_policy has the student write, and no term of loss compares that with the teacher; add a kl term, "
                "or leave on_policy out"
            )
        if self.on_policy is not None and self.adapter is not None:
            raise ValueError(
                "on_policy has the student write from its weights, and with an adapter these are frozen; leave out one "
                "of them"
            )
        if self.order == EASY_FIRST and not self.compares:
            raise ValueError(
                "order is easy_first, and no term of loss reads the teacher's probabilities, which say what is easy; "
                "choose short_first or shuffled"
            )
        return self

    @property
    def compares(self) -> bool:
        """Whether a term compares with the teacher's distribution; else the text alone is learned."""
        return any(isinstance(term, DivergenceTerm) for term in self.loss)

    @property
    def block_terms(self) -> tuple[BlockTerm, ...]:
        """The terms that look inside the models."""
        return tuple(term for term in self.loss if isinstance(term, (StatesTerm, RelationsTerm)))

    @property
    def stored_blocks(self) -> bool:
        """Whether what it looks at inside the teacher can be stored before: not of text that is yet to be written."""
        return bool(self.block_terms) and self.on_policy is None


def stage_of(index: int, train: str = "student") -> str:
    """The name of a phase's stage, those of one model counted from 0: distill, distill-2; specialise, specialise-2."""
    name = "distill" if train == "student" else "specialise"
    return name if index == 0 else f"{name}-{index + 1}"
