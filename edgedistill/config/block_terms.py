"""Terms of a phase's loss that look inside the models: hidden states, and attention relations. No torch.

loss: [{states: cosine, layers: [6, 12], weight: 0.2}, {relations: [qq, kk, vv], heads: 9, weight: 0.1}]
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from edgedistill.config.fields import PositiveFloat, PositiveInt, no_duplicates
from edgedistill.config.yaml_file import Model, as_tuple
from edgedistill.facts import ModelShape

Layers = Annotated[tuple[PositiveInt, ...], Field(min_length=1), BeforeValidator(as_tuple)]
Relation = Literal["qq", "kk", "vv"]


class StatesTerm(Model):
    """A distance between hidden states of student and teacher."""

    states: Literal["cosine", "mse"] = Field(
        description=(
            "How far the student's hidden states are from the teacher's: 1 minus their cosine, or their mean squared "
            "difference. Where the widths differ, through a projection that is learned along and then dropped."
        )
    )
    layers: Layers | None = Field(
        default=None,
        description="After how many of the student's blocks, such as [6, 12]; the distances add up. null: after all.",
    )
    teacher_layers: Layers | None = Field(
        default=None,
        description=(
            "After how many of the teacher's blocks, one for each of `layers`. null: what the next block that a depth "
            "cut kept used to read, else evenly spaced."
        ),
    )
    weight: PositiveFloat = Field(default=1.0, description="What it is multiplied by.")

    @model_validator(mode="after")
    def _pairs(self) -> "StatesTerm":
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError("layers names a layer twice; each may be there only once")
        if self.teacher_layers is not None and len(self.teacher_layers) != len(self.layers or (0,)):
            raise ValueError(
                f"teacher_layers has {len(self.teacher_layers)} entries and layers {len(self.layers or (0,))}; each "
                "layer of the student needs one of the teacher"
            )
        return self

    def check(self, where: str, student: ModelShape, teacher: ModelShape) -> str | None:
        """Why it can't be computed, as a sentence; None if it can."""
        for key, layers, model, who in (
            ("layers", self.layers, student, "student"),
            ("teacher_layers", self.teacher_layers, teacher, "teacher"),
        ):
            for layer in layers or ():
                if layer > model.layers:
                    return f"{where}.{key} has {layer}, and the {who} has {model.layers} layers. Choose at most that."
        return None


class RelationsTerm(Model):
    """KL between attention relations of student and teacher."""

    relations: Annotated[tuple[Relation, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        description=(
            "Which vectors of an attention are compared among themselves, as MiniLM v2 does: queries (qq), keys (kk), "
            "values (vv); the KL between the teacher's relations and the student's, added up."
        )
    )
    layer: PositiveInt | None = Field(default=None, description="The student's block, from 1; null: the last.")
    teacher_layer: PositiveInt | None = Field(
        default=None,
        description="The teacher's; null: the one that a depth cut took the block from, else evenly spaced.",
    )
    heads: PositiveInt | None = Field(
        default=None,
        description="Relation heads, into which all heads' elements are cut; null: as many as leave heads whole.",
    )
    weight: PositiveFloat = Field(default=1.0, description="What it is multiplied by, nats per token.")

    _unique = field_validator("relations")(no_duplicates)

    def widths(self, shape: ModelShape) -> list[int]:
        """Elements of the vectors that are compared in a model."""
        heads = {"qq": shape.heads, "kk": shape.kv_heads, "vv": shape.kv_heads}
        return [heads[relation] * shape.head_dim for relation in self.relations]

    def check(self, where: str, student: ModelShape, teacher: ModelShape) -> str | None:
        """Why it can't be computed, as a sentence; None if it can."""
        for key, layer, model, who in (
            ("layer", self.layer, student, "student"),
            ("teacher_layer", self.teacher_layer, teacher, "teacher"),
        ):
            if layer is not None and layer > model.layers:
                return f"{where}.{key} is {layer}, and the {who} has {model.layers} layers. Choose at most that."
        for width in (*self.widths(student), *self.widths(teacher)):
            if self.heads is not None and width % self.heads:
                return (
                    f"{where}.heads is {self.heads}, and vectors of {width} elements don't divide into as many; "
                    "choose a divisor, or null."
                )
        return None


BlockTerm = StatesTerm | RelationsTerm
