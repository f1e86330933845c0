"""Plain rounding of a whole model: what a user gets without recovery, and what recovery is compared with."""

from collections.abc import Mapping

from torch import Tensor

from edgedistill.formats import NumberFormat
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from edgedistill.quant.grids import GridTensor


def round_weights(weights: Mapping[str, Tensor], formats: Mapping[str, NumberFormat], mix: str) -> GridCheckpoint:
    """Every tensor rounded as ggml's quantizer does; f16 and f32 stay floats.

    Args:
        weights: a model's state by Hugging Face name; names without a format are left out.
        formats: each tensor's number format.
        mix: the mix's name.
    """
    tensors: dict[str, GridTensor | Tensor] = {}
    for name, number_format in formats.items():
        weight = weights[name].detach().float()
        tensors[name] = fit_ggml(weight, number_format.name) if number_format.quantized else weight
    return GridCheckpoint(mix, tensors)
