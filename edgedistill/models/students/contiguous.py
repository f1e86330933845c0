"""Which neighbouring blocks of a model change least together: what `choose: contiguous` cuts out.

The angular distance between what goes into a block and what comes out n blocks later, arccos(cosine) / π, as a mean
over tokens; the n blocks of the least distance go. Source: The Unreasonable Ineffectiveness of the Deeper Layers
(Gromov et al. 2024, arXiv 2403.17887, equation 7), which takes the last token of each text alone; here texts are few,
and the mean over all tokens moves less.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def angular_distances(model: "PreTrainedModel", batches: Iterable[Tensor], count: int) -> list[float]:
    """The distance, 0 to 1, between the input of block i and the output of block i + count - 1, for each i.

    Args:
        batches: token ids [B, T], without padding.
        count: blocks, from 1 to all.
    Raises:
        ValueError: no batch was given, or the model hasn't so many blocks.
    """
    layers = model.model.layers
    if not 1 <= count <= len(layers):
        raise ValueError(f"a model of {len(layers)} blocks has no {count} neighbouring ones")
    states: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(after))
    sums = torch.zeros(len(layers) - count + 1, dtype=torch.float64)
    tokens = 0
    try:
        for ids in batches:
            states.clear()
            model.model(input_ids=ids.to(model.device), use_cache=False)
            for index in range(len(sums)):
                cosine = nn.functional.cosine_similarity(states[index].double(), states[index + count].double(), dim=-1)
                sums[index] += torch.arccos(cosine.clamp(-1, 1)).sum().cpu() / math.pi
            tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    if not tokens:
        raise ValueError("angular distance needs at least one batch of token ids")
    return (sums / tokens).tolist()


def choose_contiguous(distances: Sequence[float], keep: int, kinds: Sequence[object]) -> list[int]:
    """The indices of the `keep` blocks that are left when the neighbours of least distance go, never the first or last.

    Args:
        distances: as `angular_distances` gives them for as many blocks as go.
        kinds: what each block is, where blocks differ by their place; a kept block comes to a place of its own kind.
    Raises:
        ValueError: no neighbours can go.
    """
    total = len(kinds)
    gone = total - keep
    if gone == 0:
        return list(range(total))
    choices = []
    for first in range(1, total - gone):
        kept = [*range(first), *range(first + gone, total)]
        if all(kinds[index] == kinds[place] for place, index in enumerate(kept)):
            choices.append((distances[first], kept))
    if not choices:
        raise ValueError(f"no {gone} neighbouring layers of {total} can go")
    return min(choices, key=lambda choice: choice[0])[1]
