"""What the planner foretells of a student in a mix: its file on the device, and its loss. No torch."""

from dataclasses import dataclass
from typing import Any

from edgedistill.config.own_mixes import OwnMix
from edgedistill.config.recipe import Recipe
from edgedistill.config.students.sizes import non_embedding
from edgedistill.config.target import Target
from edgedistill.facts import ModelFacts, ModelShape
from edgedistill.mixes import Mix
from edgedistill.plan.device import MixPlan, kv_tokens, plan_mix
from edgedistill.plan.enumerate import NamedMix, StudentShape
from edgedistill.plan.loss_rule import CUTS, ROUNDING, SIBLINGS, error_share


@dataclass(frozen=True)
class Candidate:
    """A student in a mix.

    Attributes:
        student: what would be built.
        mix, own: the mix, and its definition where no recipe knows it by name.
        planned: its file on the target.
        context: tokens that it is planned for.
        full_context: tokens that it could be: the target's, or the model's where these are fewer.
        size_loss, rounding_loss: what being smaller than the teacher, and the grid, are predicted to cost, in nats a
            token.
    """

    student: StudentShape
    mix: Mix
    own: OwnMix | None
    planned: MixPlan
    context: int
    full_context: int
    size_loss: float
    rounding_loss: float

    @property
    def loss(self) -> float:
        """Both together."""
        return self.size_loss + self.rounding_loss

    @property
    def shortened(self) -> bool:
        """Whether it is planned for less context than is wanted."""
        return self.context < self.full_context

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        student, shape, planned = self.student.student, self.student.shape, self.planned
        return {
            "kind": student.kind,
            **({} if self.student.start is None else {"start": self.student.start.facts.source}),
            "layers": shape.layers,
            "width": shape.width,
            "ffn": shape.ffn,
            "heads": shape.heads,
            "parameters": shape.parameters,
            "mix": self.mix.name,
            "context": self.context,
            "file_bytes": planned.file_bytes,
            "ram_bytes": planned.ram_bytes,
            "predicted_decode_tokens_per_s": planned.predicted_decode_tokens_per_s,
            "predicted_prefill_tokens_per_s": planned.predicted_prefill_tokens_per_s,
            "predicted_ttft_s": planned.predicted_ttft_s,
            "predicted_loss": self.loss,
            "meets": planned.fits,
            "why": planned.why,
        }


def predict(
    recipe: Recipe,
    target: Target,
    facts: ModelFacts,
    student: StudentShape,
    mix: NamedMix,
    context: int | None = None,
) -> Candidate:
    """A student in a mix on a target.

    Args:
        recipe, target, facts: what it is trained by, where it is to run, and the teacher.
        student, mix: what is weighed.
        context: tokens to plan for, where these are fewer than the target wants.
    Raises:
        InputError: a row doesn't divide into the blocks of its format, or the mix can't be so small.
    """
    tokenizer = facts.tokenizer if student.start is None else student.start.facts.tokenizer
    narrowed = target if context is None else target.with_context(context)
    planned = plan_mix(student.shape, mix[0], narrowed, tokenizer.tokens)
    if student.start is None:
        size_loss = cut_loss(facts.shape, student.shape, sum(phase.tokens for phase in recipe.student_phases))
    else:
        size_loss = SIBLINGS.loss(facts.shape.parameters, student.shape.parameters)
    return Candidate(
        student,
        mix[0],
        mix[1],
        planned,
        kv_tokens(student.shape, narrowed),
        kv_tokens(student.shape, target),
        size_loss,
        rounding_loss(student.shape, mix[0], planned.weight_bytes),
    )


def cut_loss(teacher: ModelShape, student: ModelShape, tokens: int) -> float:
    """What a cut is predicted to cost after a training on so many tokens, in nats a token."""
    cut = 1 - non_embedding(student) / non_embedding(teacher)
    if cut <= 0:
        return 0.0
    shallower = 1 - student.layers / teacher.layers
    return CUTS.loss(cut, min(1.0, max(0.0, 1 - shallower / cut)), tokens)


def rounding_loss(shape: ModelShape, mix: Mix, weight_bytes: int) -> float:
    """What a mix is predicted to cost; one that is yet to be fitted by its bits a weight."""
    if mix.unfitted:
        return ROUNDING.auto(8 * weight_bytes / shape.parameters)
    return ROUNDING.plain(error_share(shape, mix))
