"""The kind `auto`: the planner chooses the student and its mix, of those that meet the target's limits."""

from typing import Annotated, ClassVar, Literal, NoReturn

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from edgedistill.config.fields import MixName, Text, no_duplicates
from edgedistill.config.students.kind import StudentKind
from edgedistill.config.students.start import located
from edgedistill.config.yaml_file import as_tuple
from edgedistill.facts import ModelShape

Choosable = Literal["same", "depth", "width", "depth+width"]
CHOOSABLE: tuple[Choosable, ...] = ("same", "depth", "width", "depth+width")


class AutoStudent(StudentKind):
    """The planner's choice: of the students and mixes that meet the target's limits the one of least predicted loss."""

    needs_text: ClassVar[bool] = True
    kind: Literal["auto"] = Field(default="auto", description="The planner chooses the student and its mix.")
    kinds: Annotated[tuple[Choosable, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=CHOOSABLE, description="What it chooses from: the teacher itself, cuts in depth, in width, in both."
    )
    mixes: Annotated[tuple[MixName, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = Field(
        default=None,
        description=(
            "Which mixes; null: every built-in one, those fitted to their bytes, and one fitted to the target's limits."
        ),
    )
    siblings: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description=(
            "Other, smaller models that it may choose too, as of the kind sibling: folders, hub ids, .gguf files, "
            "pypi:NAME or folders of runs."
        ),
    )

    _unique = field_validator("kinds", "mixes", "siblings")(lambda entries: entries and no_duplicates(entries))

    @field_validator("siblings")
    @classmethod
    def _locate(cls, siblings: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(located(model, info) for model in siblings)

    def decided(self, teacher: ModelShape, block: int) -> NoReturn:
        """Nothing is decided yet."""
        raise ValueError("the planner hasn't chosen the student yet")

    def shape(self, teacher: ModelShape) -> NoReturn:
        """Nothing has a shape yet."""
        raise ValueError("the planner hasn't chosen the student yet")

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called until then."""
        return f"{teacher} student"

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Any teacher will do."""
