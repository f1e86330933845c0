"""What each FFN channel, attention head and hidden channel of a model is worth, measured on text.

By activations: how much an output adds, squared. Of an FFN channel a² · ‖w‖², a its input to the down projection and w
its column there; of a head ‖W a‖², what it adds to the residual stream; of a hidden channel x² behind the norms.
By gradient: (Σ a · ∂L/∂a)², summed over what goes together, L the cross-entropy on the text: the square of what L would
change by at first order without it, taken token by token so that rises and falls don't cancel out.
Sources: Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2) for activations; Molchanov et al. 2019
(arXiv 1906.10771, equation 8) for the gradient, and Kwon et al. 2022 (arXiv 2204.09656) for that of a mask.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Importance:
    """Sums over tokens, float64. By layer: `ffn` [F], `heads` [H]; `width` [D] over all norms.

    `squares` has, by the name of a norm, the mean of x² / mean(x²) of each of its input channels over tokens: what is
    left of a norm's input where only some channels stay.
    """

    ffn: list[Tensor]
    heads: list[Tensor]
    width: Tensor
    squares: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0


def measure_importance(
    model: "PreTrainedModel", batches: Iterable[Tensor], by: str, advance: Callable[[int], None] = lambda tokens: None
) -> Importance:
    """The importance of all channels and heads.

    Args:
        batches: token ids [B, T], without padding.
        by: "activations" or "gradient".
        advance: told how many tokens were read.
    Raises:
        ValueError: no batch was given.
    """
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    importance = Importance(
        [torch.zeros(config.intermediate_size, dtype=torch.float64) for _ in model.model.layers],
        [torch.zeros(config.num_attention_heads, dtype=torch.float64) for _ in model.model.layers],
        torch.zeros(config.hidden_size, dtype=torch.float64),
    )
    watch = _Activations(importance, head_dim) if by == "activations" else _Gradients(importance, head_dim)
    hooks = _hooks(model, watch)
    trained_before = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for ids in batches:
            watch.read(model, ids.to(model.device))
            importance.tokens += ids.numel()
            advance(ids.numel())
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, before in zip(model.parameters(), trained_before, strict=True):
            parameter.requires_grad_(before)
    if not importance.tokens:
        raise ValueError("importance needs at least one batch of token ids")
    for squares in importance.squares.values():
        squares /= importance.tokens
    return importance


class _Activations:
    """Importance by the size of outputs."""

    def __init__(self, importance: Importance, head_dim: int) -> None:
        self.importance, self.head_dim = importance, head_dim

    def read(self, model: "PreTrainedModel", ids: Tensor) -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def ffn(self, layer: int, module: nn.Module, x: Tensor) -> None:
        weight = module.weight.detach().double()  # type: ignore[operator]
        self.importance.ffn[layer] += (_flat(x).square().double().sum(0) * weight.square().sum(0)).cpu()

    def heads(self, layer: int, module: nn.Module, x: Tensor) -> None:
        each = _flat(x).unflatten(-1, (-1, self.head_dim))  # [N, H, d]
        weight = module.weight.detach().float().unflatten(1, (-1, self.head_dim))  # type: ignore[operator]  # [D, H, d]
        gram = torch.einsum("dhi,dhj->hij", weight, weight)
        self.importance.heads[layer] += torch.einsum("nhi,hij,nhj->nh", each, gram, each).double().sum(0).cpu()

    def width(self, module: nn.Module, x: Tensor) -> None:
        self.importance.width += _flat(x).square().double().sum(0).cpu()


class _Gradients(_Activations):
    """Importance by what the loss would change by at first order."""

    def read(self, model: "PreTrainedModel", ids: Tensor) -> None:
        # Autograd begins at the embedding's output, since no weight wants a gradient.
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        with torch.enable_grad():
            logits = model(inputs_embeds=embedded, use_cache=False).logits[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
            loss.backward()

    def ffn(self, layer: int, module: nn.Module, x: Tensor) -> None:
        self._effect(x, self.importance.ffn[layer].add_)

    def heads(self, layer: int, module: nn.Module, x: Tensor) -> None:
        def add(effect: Tensor) -> None:
            self.importance.heads[layer] += effect

        self._effect(x, add, self.head_dim)

    def width(self, module: nn.Module, x: Tensor) -> None:
        self._effect(x, self.importance.width.add_)

    @staticmethod
    def _effect(x: Tensor, add: Callable[[Tensor], Any], together: int = 1) -> None:
        """Give (Σ x · ∂L/∂x)² over each `together` neighbouring channels, summed over tokens, once that is known."""
        value = x.detach()

        def with_gradient(gradient: Tensor) -> None:
            product = _flat(value) * _flat(gradient)
            add(product.unflatten(-1, (-1, together)).sum(-1).square().double().sum(0).cpu())

        x.register_hook(with_gradient)


def _hooks(model: "PreTrainedModel", watch: _Activations) -> list[Any]:
    """Hooks that give `watch` the inputs of what is cut, and the norms' inputs to the squares."""
    hooks: list[Any] = []

    def before(module: nn.Module, see: Callable[[nn.Module, Tensor], None]) -> None:
        hooks.append(module.register_forward_pre_hook(lambda module, args: see(module, args[0])))

    def seen_by_norm(norm: str) -> Callable[[nn.Module, Tensor], None]:
        return lambda module, x: _add_squares(watch.importance, norm, x)

    family = FAMILIES[model.config.model_type]
    for index, layer in enumerate(model.model.layers):
        before(layer.mlp.down_proj, partial(watch.ffn, index))
        before(layer.self_attn.o_proj, partial(watch.heads, index))
        for first in _first(layer, family.fused):
            before(first, watch.width)
    head = model.get_output_embeddings()
    if isinstance(watch, _Gradients):
        before(head, watch.width)
    else:
        hooks.append(model.model.norm.register_forward_hook(lambda module, args, x: watch.width(module, x)))
    for name, module in model.named_modules():
        if name.endswith("norm") and hasattr(module, "weight"):
            before(module, seen_by_norm(name))
    return hooks


def _first(layer: nn.Module, fused: bool) -> list[nn.Module]:
    """The first product of attention and of the MLP: of those that read the same input, one."""
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.qkv_proj, mlp.gate_up_proj] if fused else [attention.q_proj, mlp.gate_proj]  # type: ignore[list-item, union-attr]


@torch.no_grad()
def _add_squares(importance: Importance, name: str, x: Tensor) -> None:
    if x.dim() == 4:
        return  # a norm of each head for itself, which no cut goes through
    squares = _flat(x).double().square()
    squares = (squares / squares.mean(-1, keepdim=True).clamp_min(1e-30)).sum(0).cpu()
    importance.squares[name] = importance.squares.get(name, torch.zeros_like(squares)) + squares


def _flat(x: Tensor) -> Tensor:
    """[B, T, C] as float32 [B T, C]."""
    return x.detach().float().flatten(0, -2)
