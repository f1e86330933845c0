"""What the planner foretells of a student in a mix: its file on the device, and its loss. No torch."""

from dataclasses import dataclass
from typing import Any

from edgedistill.config.own_mixes import OwnMix
from edgedistill.config.recipe import Recipe
from edgedistill.config.students.sizes import non_embedding
from edgedistill.config.target import Target
from edgedistill.facts import ModelFacts, ModelShape
from edgedistill.mixes import Mix
from edgedistill.plan.device import MixPlan, plan_mix
from edgedistill.plan.enumerate import NamedMix, StudentShape
from edgedistill.plan.loss_rule import CUTS, ROUNDING, error_share


@dataclass(frozen=True)
class Candidate:
    """A student in a mix.

    Attributes:
        student: what would be built.
        mix, own: the mix, and its definition where no recipe knows it by name.
        planned: its file on the target.
        cut_loss, rounding_loss: what the cut and the grid are predicted to cost, in nats a token.
    """

    student: StudentShape
    mix: Mix
    own: OwnMix | None
    planned: MixPlan
    cut_loss: float
    rounding_loss: float

    @property
    def loss(self) -> float:
        """Both together."""
        return self.cut_loss + self.rounding_loss

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        student, shape, planned = self.student.student, self.student.shape, self.planned
        return {
            "kind": student.kind,
            "layers": shape.layers,
            "width": shape.width,
            "ffn": shape.ffn,
            "heads": shape.heads,
            "parameters": shape.parameters,
            "mix": self.mix.name,
            "file_bytes": planned.file_bytes,
            "ram_bytes": planned.ram_bytes,
            "predicted_decode_tokens_per_s": planned.predicted_decode_tokens_per_s,
            "predicted_prefill_tokens_per_s": planned.predicted_prefill_tokens_per_s,
            "predicted_ttft_s": planned.predicted_ttft_s,
            "predicted_loss": self.loss,
            "meets": planned.fits,
            "why": planned.why,
        }


def predict(recipe: Recipe, target: Target, facts: ModelFacts, student: StudentShape, mix: NamedMix) -> Candidate:
    """A student in a mix on a target.

    Raises:
        InputError: a row doesn't divide into the blocks of its format, or the mix can't be so small.
    """
    planned = plan_mix(student.shape, mix[0], target, facts.tokenizer.tokens)
    tokens = sum(phase.tokens for phase in recipe.student_phases)
    return Candidate(
        student,
        mix[0],
        mix[1],
        planned,
        cut_loss(facts.shape, student.shape, tokens),
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
