"""Plain rounding of a whole model: what a user gets without recovery, and what recovery is compared with."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgedistill.errors import InputError
from edgedistill.formats import NumberFormat
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.rounding import all_finite

FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FLOAT_NAMES = {dtype: name for name, dtype in FLOATS.items()}


def round_weights(weights: Mapping[str, Tensor], formats: Mapping[str, NumberFormat], mix: str) -> GridCheckpoint:
    """Every tensor rounded as ggml's quantizer does, on the processor; floats become those of their format: float16,
    bfloat16 or float32.

    Args:
        weights: a model's state by Hugging Face name; names without a format are left out.
        formats: each tensor's number format.
        mix: the mix's name.
    Raises:
        InputError: a value is too large for float16, or not a finite number; the tensor is named.
    """
    rounded = RoundedTensors(weights, formats)
    return GridCheckpoint(mix, {name: rounded[name] for name in formats})


class RoundedTensors(Mapping[str, GridTensor | Tensor]):
    """The same tensors, each rounded when it is asked for and not kept."""

    def __init__(self, weights: Mapping[str, Tensor], formats: Mapping[str, NumberFormat]) -> None:
        """Take what `round_weights` takes; `weights` may read from a file."""
        self.weights, self.formats = weights, formats

    def __getitem__(self, name: str) -> GridTensor | Tensor:
        number_format = self.formats[name]
        weight = self.weights[name].detach().float()
        try:
            if number_format.quantized:
                return fit_ggml(weight, number_format.name).to("cpu")
            return to_float_format(weight, number_format).cpu()
        except ValueError as error:
            raise InputError(f"{name}: {error}. Choose another mix, or a sound model.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.formats)

    def __len__(self) -> int:
        return len(self.formats)


def to_float_format(weight: Tensor, number_format: NumberFormat) -> Tensor:
    """A weight rounded to nearest even as float16, bfloat16 or float32, in memory of its own.

    Raises:
        ValueError: a value isn't finite, or isn't in the format.
    """
    rounded = weight.to(FLOATS[number_format.name], copy=True)
    if not all_finite(rounded):
        bad = (~torch.isfinite(rounded)).nonzero()[0].tolist()
        raise ValueError(
            f"{number_format.name} can't hold the value {weight[tuple(bad)].item()} at {bad}; float16 ends at 65504"
        )
    return rounded
