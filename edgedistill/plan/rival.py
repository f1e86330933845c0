"""The rival that costs nothing: the teacher itself, its grids fitted to the bytes of the student's file. No torch.

What distilling must beat. The student's mix is the first that fits the target. Where even the smallest grids leave the
teacher larger than the student's file, the rival is made in those, and its excess is told.
"""

from dataclasses import asdict, dataclass
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.config.students.auto import CHOOSABLE
from edgedistill.config.target import Target
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, ModelShape
from edgedistill.mixes import Mix, Size, groups_of, least_bytes, mix_bytes
from edgedistill.plan.device import HEADER_BYTES_PER_TOKEN, MixPlan, plan_mix
from edgedistill.plan.predict import cut_loss, rounding_loss

NAME = "rival"
STAGES = CURVATURE_STAGE, FIT_STAGE, FILE_STAGE = "rival-curvature", "rival-fit", "rival-gguf"
# Of a GGUF file: a tensor's entry (name, shape, place) with its padding, and how far the texts about the model may
# differ.
ENTRY_BYTES, TEXTS_BYTES = 128, 1024


@dataclass(frozen=True)
class RivalPlan:
    """The teacher in the student's bytes.

    Attributes:
        mix: the student's mix whose file it is to be no larger than.
        allowed_bytes: what its weights may take.
        least_bytes: what they take in the smallest grids.
        planned: its file on the target, with the weights at the larger of the two.
        loss, student_loss: what it and the student's file are predicted to lose, in nats a token (loss_rule.py); None
            for a student that isn't cut out of the teacher.
    """

    mix: str
    allowed_bytes: int
    least_bytes: int
    planned: MixPlan
    loss: float
    student_loss: float | None

    @property
    def excess_bytes(self) -> int:
        """By how much it will be larger than the student's file; 0 where it fits."""
        return max(0, self.least_bytes - self.allowed_bytes)

    @property
    def label(self) -> str:
        """The name of its row."""
        return "teacher in its smallest grids" if self.excess_bytes else f"teacher in {self.mix}'s bytes"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "mix": self.mix,
            "label": self.label,
            "allowed_bytes": self.allowed_bytes,
            "excess_bytes": self.excess_bytes,
            "predicted_loss": self.loss,
            "predicted_student_loss": self.student_loss,
            "planned": asdict(self.planned),
        }


def plan_rival(recipe: Recipe, target: Target, facts: ModelFacts, student: ModelShape) -> RivalPlan | None:
    """The rival of a recipe's student; None where the student is the teacher, the recipe wants none, or no grid stores
    some of the teacher's rows.
    """
    if recipe.student.as_is or not recipe.rival:
        return None
    tokens = facts.tokenizer.tokens
    mixes = [recipe.mix(name) for name in recipe.mixes]
    fitting = (mix for mix in mixes if plan_mix(student, mix, target, tokens).fits)
    mix = next(fitting, mixes[0])
    try:
        groups = groups_of(facts.shape, rival_mix(0))
    except InputError:
        return None
    allowed = mix_bytes(student, mix) - _header_bytes(facts.shape, student)
    least = least_bytes(facts.shape, groups)
    rival = rival_mix(max(allowed, least))
    planned = plan_mix(facts.shape, rival, target, tokens)
    loss = rounding_loss(facts.shape, rival, planned.weight_bytes)
    student_loss = None
    if recipe.student.kind in CHOOSABLE and recipe.student.start is None:
        trained = sum(phase.tokens for phase in recipe.student_phases)
        student_loss = cut_loss(facts.shape, student, trained) + rounding_loss(student, mix, mix_bytes(student, mix))
    return RivalPlan(mix.name, allowed, least, planned, loss, student_loss)


def rival_mix(weight_bytes: int) -> Mix:
    """A mix fitted to so many bytes of weights."""
    return Mix(NAME, "", size=Size(total_bytes=weight_bytes))


def rival_note(recipe: Recipe, rival: RivalPlan | None) -> tuple[str, ...]:
    """That the student can't be compared with the teacher in its bytes, where that is so."""
    if rival is not None or recipe.student.as_is or not recipe.rival:
        return ()
    return ("no grid stores some of the teacher's rows, so the student isn't compared with the teacher in its bytes",)


def _header_bytes(teacher: ModelShape, student: ModelShape) -> int:
    """What the header of the teacher's GGUF file takes above the student's, rounded up."""
    entries = _count(teacher) - _count(student)
    return ENTRY_BYTES * max(0, entries) + TEXTS_BYTES + HEADER_BYTES_PER_TOKEN * max(0, teacher.vocab - student.vocab)


def _count(shape: ModelShape) -> int:
    return sum(1 for _ in shape.tensors())
