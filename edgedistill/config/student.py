"""The student part of a recipe: what of the teacher becomes the student, by kind.

This is the planner's half, without torch: the shape that each kind gives. `models/students/` builds them.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from edgedistill.config.fields import PositiveInt
from edgedistill.config.yaml_file import Model
from edgedistill.errors import did_you_mean
from edgedistill.facts import ModelShape, check_depth


class SameStudent(Model):
    """The teacher itself: no layer is cut, nothing is distilled."""

    kind: Literal["same"] = Field(default="same", description="The student is the teacher itself.")

    @property
    def as_is(self) -> bool:
        """Whether the student is the teacher, so that there is nothing to distill."""
        return True

    @property
    def needs_text(self) -> bool:
        """Whether building it looks at training text."""
        return False

    def layers_of(self, teacher_layers: int) -> int:
        """Layers of the student: all."""
        return teacher_layers

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape."""
        return teacher

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called."""
        return teacher

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Any teacher will do."""


class DepthStudent(Model):
    """The teacher with some of its layers; block influence decides which."""

    kind: Literal["depth"] = Field(default="depth", description="The teacher with some of its layers.")
    layers: PositiveInt | None = Field(default=None, description="How many layers; null lets `depth` decide.")
    depth: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Share of the teacher's layers, used while layers is null."
    )

    @property
    def as_is(self) -> bool:
        """Whether the student is the teacher, so that there is nothing to distill."""
        return False

    @property
    def needs_text(self) -> bool:
        """Whether building it looks at training text: block influence does."""
        return True

    def layers_of(self, teacher_layers: int) -> int:
        """Layers of the student: `layers`, or `depth` of the teacher's, rounded, at least 2."""
        return self.layers if self.layers is not None else max(2, round(teacher_layers * self.depth))

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape."""
        return teacher.with_layers(self.layers_of(teacher.layers))

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called. `shape` is the teacher's."""
        return f"{teacher} {self.layers_of(shape.layers)} layers"

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Raise InputError where runtimes wouldn't run a cut of this teacher as it was trained: see `check_depth`."""
        check_depth(where, teacher, shape, self.layers_of(shape.layers))


AnyStudent = SameStudent | DepthStudent
KINDS = tuple(kind.model_fields["kind"].default for kind in get_args(AnyStudent))


def _with_kind(given: Any) -> Any:
    """The part with its `kind`. The older keys say it too: `as_is: true` is the kind same, all else is depth."""
    if not isinstance(given, dict):
        return given
    part = dict(given)
    as_is = part.pop("as_is", False)
    if not isinstance(as_is, bool):
        raise ValueError(f"as_is is {as_is!r}; it must be true or false")
    if as_is and part.get("layers") is not None:
        raise ValueError(
            f"as_is keeps all of the teacher's layers; leave out layers ({part['layers']}), or set as_is to false"
        )
    if as_is and part.get("kind", "same") != "same":
        raise ValueError(f"as_is is true and kind is '{part['kind']}'; leave out one of them")
    if as_is:
        return {"kind": "same"}
    part.setdefault("kind", "depth")
    if part["kind"] not in KINDS:
        near = did_you_mean(part["kind"], KINDS) if isinstance(part["kind"], str) else ""
        raise ValueError(f"kind is {part['kind']!r}; it must be one of {', '.join(KINDS)}.{near}")
    return part


def _tag(student: Any) -> str:
    """Which of the kinds validates; in brackets, so that messages leave it out."""
    kind = student.get("kind", "depth") if isinstance(student, dict) else getattr(student, "kind", "depth")
    return f"[{kind}]"


Student = Annotated[
    Annotated[SameStudent, Tag("[same]")] | Annotated[DepthStudent, Tag("[depth]")],
    Discriminator(_tag),
    BeforeValidator(_with_kind),
]
