"""Norms and gated MLPs that keep less for backward than transformers' own, with the same values to the bit.

Of a norm, autograd keeps its intermediates in float32, and a copy of its output in the compute type for each product
that takes it; input and output do. Of act(gate) · up it keeps four tensors of the MLP's width, where gate and up give
the others back. What is left out is
computed again in backward: a few passes over a tensor, no matrix product.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from edgedistill.families import FAMILIES
from edgedistill.quant.split import autocast_type

# The norms whose outputs go to products and nowhere else, so that the compute type is all that is left of them.
BEFORE_PRODUCTS = {
    "pre": ("input_layernorm", "post_attention_layernorm"),
    "sandwich": ("input_layernorm", "pre_feedforward_layernorm"),
    "post": (),
}


@contextmanager
def lean(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's norms and MLPs keep less, within."""
    family = FAMILIES[model.config.model_type]
    changed: list[nn.Module] = []
    for layer in model.model.layers:
        for name in BEFORE_PRODUCTS[family.norms]:
            norm = getattr(layer, name)
            norm.forward = _norm_forward(norm, family.norm_offset)
            changed.append(norm)
        layer.mlp.forward = _mlp_forward(layer.mlp, family.fused)
        changed.append(layer.mlp)
    try:
        yield
    finally:
        for module in changed:
            del module.forward  # the class's is seen again


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: bool, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).

    Args:
        x: float32 [..., D]; `weight` float32 [D].
        offset: multiply by 1 + weight instead, as gemma does.
        dtype: of the result.
    """
    return _RMSNorm.apply(x, weight, eps, offset, dtype)  # type: ignore[no-any-return]


def gated(gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """act(gate) · up, of which only gate and up are kept."""
    return _Gated.apply(gate, up, act)  # type: ignore[no-any-return]


def _norm_forward(norm: nn.Module, offset: bool) -> Callable[[Tensor], Tensor]:
    eps = float(norm.eps if offset else norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(x: Tensor) -> Tensor:
        return rms_norm(x, norm.weight, eps, offset, autocast_type(x) or x.dtype)  # type: ignore[arg-type]

    return forward


def _mlp_forward(mlp: nn.Module, fused: bool) -> Callable[[Tensor], Tensor]:
    act: Callable[[Tensor], Tensor] = mlp.activation_fn if fused else mlp.act_fn  # type: ignore[assignment]

    def forward(x: Tensor) -> Tensor:
        if fused:
            gate, up = mlp.gate_up_proj(x).chunk(2, -1)  # type: ignore[operator]
        else:
            gate, up = mlp.gate_proj(x), mlp.up_proj(x)  # type: ignore[operator]
        product = gated(gate, up, act)
        where = _memory(product)

        def pack(kept: Tensor) -> Tensor | torch.Size:
            return kept.shape if _memory(kept) == where else kept

        def unpack(kept: Tensor | torch.Size) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            with torch.no_grad():
                return (act(gate.detach()) * up.detach()).view(kept)

        with saved_tensors_hooks(pack, unpack):
            return mlp.down_proj(product)  # type: ignore[no-any-return, operator]

    return forward


def _memory(tensor: Tensor) -> int:
    """What tells the memory that a tensor lies in from all other; of tensors without values, too."""
    return int(tensor.untyped_storage()._cdata)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, offset, dtype):  # type: ignore[no-untyped-def]
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return (x * inverse * (weight + 1.0 if offset else weight)).to(dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors
        unit, grad = x * inverse, grad.float()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            grad_unit = grad * (weight + 1.0 if ctx.offset else weight)
            along = torch.linalg.vecdot(grad_unit, unit).div_(x.shape[-1]).unsqueeze(-1)
            grad_x = grad_unit.sub_(unit.mul_(along)).mul_(inverse)
        return grad_x, grad_weight, None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up, act):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            seen = gate.detach().requires_grad_()
            opened = ctx.act(seen)
        (grad_gate,) = torch.autograd.grad(opened, seen, grad * up)
        return grad_gate, grad * opened.detach(), None
