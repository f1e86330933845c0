"""The kinds `sibling` and `run`: another, smaller model that goes on learning from the teacher."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from edgedistill.config.fields import Text
from edgedistill.config.students.kind import StudentKind
from edgedistill.config.students.start import located
from edgedistill.facts import ModelShape

SUFFIX = "distilled"


class _WholeModel(StudentKind):
    """What both kinds have: the student's shape, words, template and licence are those of the model that is named."""

    def shape(self, start: ModelShape) -> ModelShape:
        """The student's shape."""
        return start

    def name(self, start: str, shape: ModelShape) -> str:
        """What the student is called."""
        return start if start.endswith(SUFFIX) else f"{start} {SUFFIX}"

    def check(self, where: str, start: str, shape: ModelShape) -> None:
        """Any model that can be read will do."""


class SiblingStudent(_WholeModel):
    """A model of its own, mostly a smaller one of the teacher's makers."""

    kind: Literal["sibling"] = Field(default="sibling", description="Another model, which learns from the teacher.")
    model: Text = Field(
        description=(
            "Folder, hub id, .gguf file, pypi:NAME or the folder of a run. One with other words than the teacher's "
            "learns from its text alone."
        )
    )
    revision: Text | None = Field(default=None, description="Commit of a hub model.")

    @field_validator("model")
    @classmethod
    def _locate(cls, model: str, info: ValidationInfo) -> str:
        return located(model, info)

    @property
    def start(self) -> tuple[str, str | None] | None:
        """The model that it starts from, and its revision."""
        return self.model, self.revision


class RunStudent(_WholeModel):
    """The float student of a finished run."""

    kind: Literal["run"] = Field(default="run", description="The float student of a run, which goes on learning.")
    path: Text = Field(description="The run's folder.")

    @field_validator("path")
    @classmethod
    def _locate(cls, path: str, info: ValidationInfo) -> str:
        return located(path, info)

    @property
    def start(self) -> tuple[str, str | None] | None:
        """The run that it starts from."""
        return self.path, None
