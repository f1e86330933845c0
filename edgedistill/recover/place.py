"""Put a model's linear layers on a grid for training, and take the result off as a grid checkpoint."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.formats import F32, NumberFormat
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.exact import ExactLinear
from edgedistill.quant.fit import Costs, Curvature, fit_ggml
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.latent import GridLinear, Learned
from edgedistill.quant.rounded import to_float_format


def costs_of(name: str, costs: Mapping[str, Costs] | None) -> Costs | None:
    """What is known of a weight; of tables, only curvature is."""
    if costs is None:
        return None
    if name in (EMBEDDING, HEAD):
        cost = costs.get(name)
        return cost if isinstance(cost, Curvature) else None
    return costs[name]


def place_on_grid(
    model: PreTrainedModel,
    formats: Mapping[str, NumberFormat],
    fitted: Mapping[str, GridTensor] | None,
    learned: Learned,
) -> dict[str, GridLinear]:
    """Replace the linear layers by `GridLinear`s; freeze the embedding, the output matrix and 16-bit layers at their
    rounded values.

    Args:
        model: changed in place.
        formats: each tensor's number format.
        fitted: the weights on their grids; None for ggml's own fit.
        learned: what of each layer is trained.
    Returns:
        The layers by the name of their weight.
    """
    layers: dict[str, GridLinear] = {}
    for name, module in list(model.named_modules()):
        tensor = f"{name}.weight"
        if not isinstance(module, nn.Linear) or tensor == HEAD or tensor not in formats:
            continue
        weight = module.weight.detach().float()
        if not formats[tensor].quantized:
            # Sixteen bits are fine enough to need no training; float32 alone is trained, since it ships as it is.
            module.weight.data.copy_(to_float_format(weight, formats[tensor]))
            module.weight.requires_grad_(formats[tensor] is F32)
            _replace(model, name, ExactLinear.of(module))
            continue
        start = fit_ggml(weight, formats[tensor].name) if fitted is None else fitted[tensor]
        layers[tensor] = GridLinear(weight, start, learned, module.bias)
        _replace(model, name, layers[tensor])
    own = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in own:
            # One tensor that still lies in its mapped file keeps all of it in memory, the replaced weights too.
            parameter.data = parameter.data.clone()
    if not learned.norms:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and ".gain_" not in name:
                parameter.requires_grad_(False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        table.weight.requires_grad_(False)
    with torch.no_grad():
        state = model.state_dict()
        for name in (EMBEDDING, HEAD):
            if name in formats:
                stored, table = formats[name], state[name]
                if not stored.quantized:
                    table.copy_(to_float_format(table, stored))
                else:
                    start = fit_ggml(table, stored.name) if fitted is None else fitted[name].to(table.device)
                    table.copy_(start.decode())
    return layers


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def take_off_grid(
    model: PreTrainedModel,
    layers: Mapping[str, GridLinear],
    rounded: GridCheckpoint,
    formats: Mapping[str, NumberFormat],
    fitted: Mapping[str, GridTensor] | None = None,
) -> GridCheckpoint:
    """The checkpoint of a trained model: its layers' codes and scales, its norms and biases; tables as fitted, the rest
    as rounded.
    """
    state = model.state_dict()
    tensors: dict[str, GridTensor | Tensor] = {}
    for name in formats:
        if name in layers:
            tensors[name] = layers[name].encode().to("cpu")
        elif formats[name] is F32:
            tensors[name] = state[name].float().cpu()
        else:
            tensors[name] = (fitted or {}).get(name, rounded.tensors[name])
    return GridCheckpoint(rounded.mix, tensors)
