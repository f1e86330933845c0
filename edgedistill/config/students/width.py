"""The kind `width`: the teacher with narrower layers, all of them."""

from typing import ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from edgedistill.config.fields import PositiveInt, Share
from edgedistill.config.students.kind import StudentKind
from edgedistill.config.students.sizes import BLOCK, Sizes, check_sizes, cuts, non_embedding, shared
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape

Importance = Literal["activations", "gradient"]


class Narrower(StudentKind):
    """The keys that every kind with narrower layers has."""

    needs_text: ClassVar[bool] = True
    kind: str
    ffn: PositiveInt | None = Field(default=None, description="FFN channels of each layer.")
    heads: PositiveInt | None = Field(
        default=None, description="Query heads; as many of each key head where kv_heads isn't given."
    )
    kv_heads: PositiveInt | None = Field(default=None, description="Key heads, each with its group of query heads.")
    width: PositiveInt | None = Field(
        default=None, description="Hidden channels, of the tables too; null keeps the teacher's."
    )
    share: Share | None = Field(
        default=None,
        description=(
            "At most this share of the teacher's weights outside of the tables: it decides what is not given of ffn, "
            "heads and kv_heads; of heads the root of the share of FFN channels stays."
        ),
    )
    importance: Importance = Field(
        default="activations",
        description=(
            "What ranks channels and heads: how large their outputs are on training text, or what the text's loss "
            "would rise by without them (first order)."
        ),
    )

    @property
    def sizes(self) -> Sizes:
        """The sizes that are given."""
        return Sizes(self.ffn, self.heads, self.kv_heads, self.width)


class WidthStudent(Narrower):
    """The teacher with fewer FFN channels, attention heads or hidden channels in every layer."""

    kind: Literal["width"] = Field(default="width", description="The teacher with narrower layers.")

    @model_validator(mode="after")
    def _something_is_cut(self) -> "WidthStudent":
        if not self.sizes.names and self.share is None:
            raise ValueError("the kind width cuts nothing without one of ffn, heads, kv_heads, width and share")
        return self

    def decided(self, teacher: ModelShape, block: int) -> "WidthStudent":
        """The same with every size decided. `block`: what rows should divide by (`sizes.block_of`)."""
        return decided(self, teacher, non_embedding(teacher), block)

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape; without `decided`, a share is decided for the blocks of most formats."""
        return self.decided(teacher, BLOCK).sizes.of(teacher)

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called. `shape` is the teacher's."""
        return " ".join([teacher, ", ".join(cuts(self.shape(shape), shape))])

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Raise InputError for sizes that the teacher hasn't, or that no runtime loads."""
        check_width(self, where, teacher, (shape, non_embedding(shape)))
        if self.shape(shape) == shape:
            raise InputError(
                f"{where}: the student would have all of the teacher {teacher}'s sizes; cut one, or take kind: same."
            )


Cut = TypeVar("Cut", bound=Narrower)


def decided(student: Cut, teacher: ModelShape, whole: int, block: int) -> Cut:
    """The same student with every size decided.

    Args:
        teacher: with as many layers as the student.
        whole: the teacher's weights outside of the tables.
    """
    given = student.sizes
    if student.share is not None:
        given = shared(teacher, given, int(student.share * whole), block) or given
    shape = given.of(teacher)
    sizes = {"ffn": shape.ffn, "heads": shape.heads, "kv_heads": shape.kv_heads, "width": shape.width}
    return student.model_copy(update=sizes | {"share": None})


def check_width(student: Narrower, where: str, teacher: str, of: tuple[ModelShape, int]) -> None:
    """Raise InputError for sizes that the teacher hasn't, or that no runtime loads.

    Args:
        of: the teacher's shape with as many layers as the student, and its weights outside of the tables.
    """
    shape, whole = of
    check_sizes(where, teacher, shape, student.sizes.of(shape))
    if student.share is not None and shared(shape, student.sizes, int(student.share * whole), BLOCK) is None:
        raise InputError(
            f"{where}: no student has at most {student.share:g} of the teacher {teacher}'s weights outside of the "
            "tables with these sizes; give it a larger share, fewer layers or a smaller width."
        )
