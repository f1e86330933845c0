"""A linear layer in plain float whose products in bfloat16 multiply by its weight exactly, as those on grids do."""

import torch
from torch import Tensor, nn

from edgedistill.quant.split import autocast_type, multiply, split


class ExactLinear(nn.Linear):
    """transformers' own linear layer outside of autocast; under it, one that doesn't round the weight."""

    @classmethod
    def of(cls, layer: nn.Linear) -> "ExactLinear":
        """With the weight and the bias of a layer, as they are."""
        with torch.device("meta"):
            exact = cls(layer.in_features, layer.out_features, layer.bias is not None)
        exact.weight = layer.weight
        exact.bias = layer.bias
        return exact

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O], in x's own type or autocast's."""
        dtype = autocast_type(input)
        if dtype is None:
            return super().forward(input)
        return _ExactProduct.apply(input.to(dtype), self.weight, self.bias)  # type: ignore[no-any-return]


class _ExactProduct(torch.autograd.Function):
    """`multiply` with the gradients of a linear layer; x is on its way back multiplied by the rounded weight."""

    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return multiply(x, split(weight), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = (rows @ weight.to(x.dtype)).view_as(x) if needs_x else None
        grad_weight = (rows.T @ x.reshape(-1, x.shape[-1])).float() if needs_weight else None
        grad_bias = rows.sum(0, dtype=torch.float32) if needs_bias else None
        return grad_x, grad_weight, grad_bias
