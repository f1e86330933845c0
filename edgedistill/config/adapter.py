"""An adapter that a phase trains in place of the weights: low-rank matrices beside them (LoRA, Hu et al. 2021, arXiv
2106.09685), on frozen float weights or on weights in four bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from edgedistill.config.fields import PositiveFloat, PositiveInt, Text
from edgedistill.config.yaml_file import Model, as_tuple
from edgedistill.facts import ModelShape, TensorShape
from edgedistill.formats import Q4_0

LORA, QLORA = "lora", "qlora"
Some = Annotated[tuple[Text, ...], Field(min_length=1)]
BASE_GRID = Q4_0  # that a frozen base lies on


class Adapter(Model):
    """Low-rank matrices that are trained beside frozen ones, and merged into these at the phase's end."""

    kind: Literal["lora", "qlora"] = Field(
        default="lora",
        description=f"lora: the weights stay floats while they are frozen; qlora: they lie on {BASE_GRID.name}.",
    )
    rank: PositiveInt = Field(default=16, description="Rows of the smaller matrices.")
    alpha: PositiveFloat | None = Field(
        default=None, description="What is added is multiplied by alpha / rank; null: twice the rank."
    )
    targets: Annotated[Some | None, BeforeValidator(as_tuple)] = Field(
        default=None,
        description="The ends of the matrices' names, such as q_proj; null: all matrices of the layers.",
    )

    @property
    def scale(self) -> float:
        """The `alpha` that is used."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    def matrices(self, shape: ModelShape) -> Iterator[TensorShape]:
        """The matrices of a model that it stands beside."""
        for tensor in shape.tensors():
            if tensor.kind == "linear" and (self.targets is None or any(_ends(tensor, t) for t in self.targets)):
                yield tensor

    def parameters(self, shape: ModelShape) -> int:
        """Weights that are trained."""
        return sum(self.rank * (tensor.rows + tensor.cols) for tensor in self.matrices(shape))

    def check(self, shape: ModelShape) -> str | None:
        """Why a model can't have it, to follow the place in the recipe; None where it can."""
        names = sorted({tensor.name.split(".")[-2] for tensor in shape.tensors() if tensor.kind == "linear"})
        for target in self.targets or ():
            if not any(tensor.kind == "linear" and _ends(tensor, target) for tensor in shape.tensors()):
                return f"targets names '{target}', and no matrix of a layer is called so; they are {', '.join(names)}"
        for tensor in self.matrices(shape):
            name, least = tensor.name.split(".")[-2], min(tensor.rows, tensor.cols)
            if self.rank > least:
                return f"rank is {self.rank}, above what {name} ({tensor.rows} x {tensor.cols}) has; at most {least}"
            if self.kind == QLORA and tensor.cols % BASE_GRID.block:
                return (
                    f"kind is qlora, and {name} has rows of {tensor.cols}, which {BASE_GRID.name} can't hold: they "
                    f"must be multiples of {BASE_GRID.block}; take lora"
                )
        return None


def _ends(tensor: TensorShape, target: str) -> bool:
    """Whether a matrix's name, without `.weight`, ends with a target's parts."""
    parts, ending = tensor.name.removesuffix(".weight").split("."), target.split(".")
    return parts[-len(ending) :] == ending
