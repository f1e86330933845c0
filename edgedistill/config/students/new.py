"""The kind `config`: a new small model of the teacher's family, with its tokenizer."""

from typing import Annotated, Literal

from pydantic import Field

from edgedistill.config.fields import PositiveInt
from edgedistill.config.students.kind import StudentKind
from edgedistill.config.students.sizes import check_new_sizes
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape


class ConfigStudent(StudentKind):
    """A new model of the teacher's family, with heads of its size and its tokenizer; only the tables begin with it."""

    kind: Literal["config"] = Field(default="config", description="A new small model with the teacher's tokenizer.")
    layers: PositiveInt = Field(description="How many layers.")
    width: PositiveInt = Field(description="Hidden channels.")
    heads: PositiveInt = Field(description="Query heads, each as wide as the teacher's.")
    kv_heads: PositiveInt | None = Field(
        default=None,
        description="Key heads; null: as many as divide heads, with at least as many queries each as the teacher's.",
    )
    ffn: PositiveInt = Field(description="FFN channels of each layer.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Of the weights that begin at random.")

    def decided(self, teacher: ModelShape, block: int) -> "ConfigStudent":
        """The same with the key heads decided."""
        return self.model_copy(update={"kv_heads": self.shape(teacher).kv_heads})

    def shape(self, teacher: ModelShape) -> ModelShape:
        """The student's shape: what isn't a size is the teacher's."""
        kv_heads = self.kv_heads
        if kv_heads is None:
            most = min(teacher.kv_heads, max(1, self.heads * teacher.kv_heads // teacher.heads))
            kv_heads = max(count for count in range(1, most + 1) if self.heads % count == 0)
        return teacher.with_layers(self.layers).with_sizes(self.width, self.heads, kv_heads, self.ffn)

    def name(self, teacher: str, shape: ModelShape) -> str:
        """What the student is called."""
        sizes = f"{self.layers} layers, ffn {self.ffn}, {self.heads} heads, width {self.width}"
        return f"new from {teacher}, {sizes}"

    def check(self, where: str, teacher: str, shape: ModelShape) -> None:
        """Raise InputError for a model that is larger than the teacher, or that no runtime loads."""
        if not 1 <= self.layers <= shape.layers:
            raise InputError(
                f"{where}: the student would have {self.layers} layers; the teacher {teacher} has {shape.layers}, so "
                f"student.layers must be from 1 to {shape.layers}."
            )
        if shape.family == "gemma3_text" and shape.attention_scale is not None:
            raise InputError(
                f"{where}: llama.cpp knows this gemma3's attention scale by its {shape.layers} layers, width and "
                "heads; take a smaller gemma3 as the teacher."
            )
        check_new_sizes(where, teacher, shape, self.shape(shape))
