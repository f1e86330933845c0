"""A shallower model cut out of a deeper one: which blocks matter least, and the model without them.

Block influence (ShortGPT, Men et al. 2024, equation 1): 1 - mean cosine between what goes into a block and what comes
out of it, over tokens. The blocks' own outputs are taken, because the last entry of transformers' hidden_states has
already passed the final norm, which would make the last block look influential whatever it does.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.models.load import assemble

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

@torch.no_grad()
def block_influence(model: "LlamaForCausalLM", batches: Iterable[Tensor]) -> list[float]:
    """Influence of each block, 0 (changes no direction) to 2.

    Args:
        batches: token ids [B, T], without padding; on the model's device or not.
    Raises:
        ValueError: no batch was given.
    """
    layers = model.model.layers
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0

    def watch(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[index] += cosine.double().sum().cpu()

        return hook

    hooks = [layer.register_forward_hook(watch(index), with_kwargs=True) for index, layer in enumerate(layers)]
    try:
        for ids in batches:
            model.model(input_ids=ids.to(model.device), use_cache=False)
            tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    if not tokens:
        raise ValueError("block influence needs at least one batch of token ids")
    return (1 - sums / tokens).tolist()


def choose_layers(influence: Sequence[float], keep: int) -> list[int]:
    """The indices of the `keep` blocks to keep, in order: the least influential go, never the first or the last.

    Raises:
        ValueError: `keep` isn't between 2 (1 for a model of one block) and the number of blocks.
    """
    total = len(influence)
    if not min(2, total) <= keep <= total:
        raise ValueError(f"a model of {total} layers can be cut to {min(2, total)} to {total} layers, not {keep}")
    inner = sorted(range(1, total - 1), key=lambda index: (influence[index], index))
    dropped = set(inner[: total - keep])
    return [index for index in range(total) if index not in dropped]


def cut_layers(model: "LlamaForCausalLM", keep: Sequence[int]) -> "LlamaForCausalLM":
    """A model of the given blocks alone, with weights of its own: training it leaves `model` as it is.

    Args:
        keep: rising indices of the blocks to keep.
    Raises:
        ValueError: `keep` is empty, not rising, or names a block that isn't there.
    """
    total = len(model.model.layers)
    kept = list(keep)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= total:
        raise ValueError(f"layers to keep must be rising indices from 0 to {total - 1}, got {kept}")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    moved = {old: new for new, old in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if (match := _LAYER.fullmatch(name)) is None:
            state[name] = value.detach().clone()
        elif (old := int(match[1])) in moved:
            state[f"model.layers.{moved[old]}.{match[2]}"] = value.detach().clone()
    cut = assemble(config, state)
    cut.generation_config = copy.deepcopy(model.generation_config)
    return cut
