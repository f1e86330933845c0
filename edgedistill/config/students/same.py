"""The kind `same`: the student is the teacher itself."""

from typing import Literal

from pydantic import Field

from edgedistill.config.yaml_file import Model
from edgedistill.facts import ModelShape


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

    @property
    def start(self) -> tuple[str, str | None] | None:
        """What it starts from: the teacher, so that nothing else is named."""
        return None

    def decided(self, teacher: ModelShape, block: int) -> "SameStudent":
        """The same: it leaves nothing open."""
        return self

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape."""
        return teacher

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called."""
        return teacher

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Any teacher will do."""
