"""The kind `same`: the student is the teacher itself."""

from typing import ClassVar, Literal

from pydantic import Field

from edgedistill.config.students.kind import StudentKind
from edgedistill.facts import ModelShape


class SameStudent(StudentKind):
    """The teacher itself: no layer is cut, nothing is distilled."""

    as_is: ClassVar[bool] = True
    kind: Literal["same"] = Field(default="same", description="The student is the teacher itself.")

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape."""
        return teacher

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called."""
        return teacher

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Any teacher will do."""
