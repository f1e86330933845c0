"""The kind `depth`: the teacher with some of its layers."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from edgedistill.config.fields import PositiveInt, Text
from edgedistill.config.students.kind import StudentKind
from edgedistill.config.students.start import located
from edgedistill.facts import ModelShape, check_depth

Choose = Literal["influence", "contiguous"]
_CUT = re.compile(r" \d+ layers$")


class DepthStudent(StudentKind):
    """The teacher with some of its layers, the first and the last among them."""

    needs_text: ClassVar[bool] = True
    kind: Literal["depth"] = Field(default="depth", description="The teacher with some of its layers.")
    layers: PositiveInt | None = Field(default=None, description="How many layers; null lets `depth` decide.")
    depth: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Share of the teacher's layers, used while layers is null."
    )
    choose: Choose = Field(
        default="influence",
        description=(
            "Which layers go: those of least influence, each for itself; or the neighbouring ones between whose input "
            "and output the angle is smallest."
        ),
    )
    of: Text | None = Field(
        default=None,
        description=(
            "What is cut, where that isn't the teacher: the folder of a run, whose float student is cut further, or a "
            "model as of the kind sibling."
        ),
    )

    @field_validator("of")
    @classmethod
    def _locate(cls, of: str | None, info: ValidationInfo) -> str | None:
        return of if of is None else located(of, info)

    @property
    def start(self) -> tuple[str, str | None] | None:
        """The model that is cut and its revision, where that isn't the teacher."""
        return None if self.of is None else (self.of, None)

    def layers_of(self, teacher_layers: int) -> int:
        """Layers of the student: `layers`, or `depth` of the teacher's, rounded, at least 2."""
        return self.layers if self.layers is not None else max(2, round(teacher_layers * self.depth))

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape."""
        return teacher.with_layers(self.layers_of(teacher.layers))

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called. `shape` is the teacher's."""
        return f"{_CUT.sub('', teacher)} {self.layers_of(shape.layers)} layers"

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Raise InputError where runtimes wouldn't run a cut of this teacher as it was trained: see `check_depth`."""
        check_depth(where, teacher, shape, self.layers_of(shape.layers))
