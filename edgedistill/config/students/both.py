"""The kind `depth+width`: the teacher with some of its layers, and these narrower."""

import math
from typing import Literal

from pydantic import Field, model_validator

from edgedistill.config.fields import PositiveInt
from edgedistill.config.students.depth import Choose
from edgedistill.config.students.sizes import BLOCK, cuts, non_embedding
from edgedistill.config.students.width import Narrower, check_width, decided
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape, allowed_layers, check_depth


class DepthWidthStudent(Narrower):
    """The teacher with some of its layers, and of these fewer FFN channels, attention heads or hidden channels."""

    kind: Literal["depth+width"] = Field(default="depth+width", description="The teacher with fewer, narrower layers.")
    layers: PositiveInt | None = Field(
        default=None, description="How many layers; null: the root of `share` times the teacher's."
    )
    choose: Choose = Field(default="influence", description="Which layers go, as for the kind depth.")

    @model_validator(mode="after")
    def _both_are_cut(self) -> "DepthWidthStudent":
        if self.share is None and (self.layers is None or not self.sizes.names):
            raise ValueError(
                "the kind depth+width takes share, or layers and one of ffn, heads, kv_heads and width; with layers "
                "alone it is the kind depth, without them the kind width"
            )
        return self

    def layers_of(self, teacher_layers: int) -> int:
        """Layers of the student where the teacher's are all of one kind."""
        if self.layers is not None:
            return self.layers
        assert self.share is not None, "one of the two is given"
        return max(2, round(teacher_layers * math.sqrt(self.share)))

    def decided(self, teacher: ModelShape, block: int) -> "DepthWidthStudent":
        """The same with layers and every size decided. `block`: what rows should divide by (`sizes.block_of`)."""
        layers = self._layers(teacher)
        student = self.model_copy(update={"layers": layers})
        return decided(student, teacher.with_layers(layers), non_embedding(teacher), block)

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape; without `decided`, a share is decided for the blocks of most formats."""
        student = self.decided(teacher, BLOCK)
        return student.sizes.of(teacher.with_layers(student._layers(teacher)))

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called. `shape` is the teacher's."""
        student = self.shape(shape)
        return f"{teacher} {', '.join([f'{student.layers} layers', *cuts(student, shape)])}"

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Raise InputError for layers or sizes that the teacher hasn't, or that no runtime loads as trained."""
        layers = self._layers(shape)
        check_depth(where, teacher, shape, layers)
        check_width(self, where, teacher, (shape.with_layers(layers), non_embedding(shape)))
        if self.shape(shape) == shape:
            raise InputError(
                f"{where}: the student would have all of the teacher {teacher}'s sizes; cut one, or take kind: same."
            )

    def _layers(self, teacher: ModelShape) -> int:
        """`layers`, or where a share decides, the number nearest to `layers_of` that the family can be cut to."""
        ideal = self.layers_of(teacher.layers)
        if self.layers is not None:
            return ideal
        return min(allowed_layers(teacher), key=lambda count: (abs(count - ideal), count))
