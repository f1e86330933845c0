"""Low-rank matrices beside a model's frozen ones, through peft: put in, trained, merged.

Of qlora the frozen matrices lie on a 4-bit grid of ours meanwhile: 4.5 bits a weight in place of 32. Each is decoded
for the product that needs it, forward and back. What is merged in the end is what was decoded, so the student is the
model that was trained: the rounded weights and what the adapter adds to them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistill.config.adapter import BASE_GRID, QLORA, Adapter
from edgedistill.data.seeds import derived_seed
from edgedistill.facts import ModelShape
from edgedistill.models.hf_folder import shape_of
from edgedistill.quant.grids import GRIDS, GridTensor

NAME = "default"  # peft's own for a model's only adapter


class Adapted:
    """A model with an adapter in it. The model's own modules are changed in place."""

    def __init__(self, model: PreTrainedModel, adapter: Adapter, seed: int) -> None:
        """Put it in: nothing changes what the model computes, but for a base that is rounded.

        Args:
            model: float32; its matrices are frozen.
            adapter: the recipe's part.
            seed: of the matrices that begin at random.
        """
        targets = [tensor.name.removesuffix(".weight") for tensor in adapter.matrices(_shape_of(model))]
        if adapter.kind == QLORA:
            for name in targets:
                model.set_submodule(name, GridLinear(model.get_submodule(name)))
        alpha: Any = adapter.scale  # peft divides it by the rank, whatever number it is
        config = LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "adapter"))
            self._tuner = LoraModel(model, config, NAME)
        self.model = model

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def merged(self) -> PreTrainedModel:
        """The model with what the adapter adds in its weights, and without the adapter."""
        for layer in self._layers():
            if isinstance(layer.base_layer, GridLinear):
                layer.base_layer = layer.base_layer.decoded()
        merged: Any = self._tuner.merge_and_unload()
        model: PreTrainedModel = merged
        return model

    def _layers(self) -> Iterator[LoraLayer]:
        return (module for module in self.model.modules() if isinstance(module, LoraLayer))


def _shape_of(model: PreTrainedModel) -> ModelShape:
    return shape_of(Path("config.json"), model.config.to_dict())


class GridLinear(nn.Linear):
    """A frozen linear layer whose matrix lies on a grid, as the bytes that a file holds."""

    packed: Tensor

    def __init__(self, layer: Any) -> None:
        """Round a layer's matrix [O, I] as ggml does."""
        nn.Module.__init__(self)
        weight: Tensor = layer.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("packed", GridTensor.of(BASE_GRID.name, GRIDS[BASE_GRID.name].encode(weight)).packed)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Float32 [O, I], decoded anew each time."""
        return GridTensor(BASE_GRID.name, self.packed).decode()

    def forward(self, x: Tensor) -> Tensor:
        """The product with the decoded matrix, which is not kept for backward."""
        return _Product.apply(x, self)

    def decoded(self) -> nn.Linear:
        """The same layer with its matrix in float32."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            layer.bias = self.bias
        return layer


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, layer: GridLinear) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.layer, ctx.dtype = layer, x.dtype
        return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return (grad @ ctx.layer.weight.to(grad.dtype)).to(ctx.dtype), None
