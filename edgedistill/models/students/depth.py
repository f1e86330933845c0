"""The kind `depth`: a shallower model cut out of a deeper one, without the blocks that matter least.

Block influence (ShortGPT, Men et al. 2024, equation 1): 1 - mean cosine between what goes into a block and what comes
out of it, over tokens. The blocks' own outputs are taken, because the last entry of transformers' hidden_states has
already passed the final norm, which would make the last block look influential whatever it does.
"""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.config.students.depth import Choose, DepthStudent
from edgedistill.models.identity import LAYERS
from edgedistill.models.load import assemble, load_model, save_model
from edgedistill.models.students.contiguous import angular_distances, choose_contiguous
from edgedistill.models.students.origin import Origin, first_tokens
from edgedistill.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INFLUENCE_TOKENS = 4096  # enough to rank layers: the ranking no longer moves past 2,000 on a 30-layer model
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@torch.no_grad()
def block_influence(model: "PreTrainedModel", batches: Iterable[Tensor]) -> list[float]:
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


def layer_kinds(model: "PreTrainedModel") -> list[tuple[str, bool]]:
    """(kind of attention, whether it has a rotary embedding) of each block: what runtimes know by its place alone."""
    config = model.config
    attention = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    rotated = (getattr(config, "no_rope_layers", None) or [True] * config.num_hidden_layers)[: config.num_hidden_layers]
    return [(str(kind), bool(rope)) for kind, rope in zip(attention, rotated, strict=True)]


def choose_layers(influence: Sequence[float], keep: int, kinds: Sequence[object] | None = None) -> list[int]:
    """The indices of the `keep` blocks to keep, in order: the least influential go, never the first or the last.

    Args:
        kinds: where blocks differ by their place, what each is; every kept block then comes to a place of its own kind,
            and of all such choices the one of most influence is taken.
    Raises:
        ValueError: `keep` isn't between 2 (1 for a model of one block) and the number of blocks, or the last block's
            place would be one of another kind.
    """
    total = len(influence)
    if not min(2, total) <= keep <= total:
        raise ValueError(f"a model of {total} layers can be cut to {min(2, total)} to {total} layers, not {keep}")
    if kinds is not None and len(set(kinds)) > 1:
        return _choose_by_kind(influence, keep, kinds)
    inner = sorted(range(1, total - 1), key=lambda index: (influence[index], index))
    dropped = set(inner[: total - keep])
    return [index for index in range(total) if index not in dropped]


def _choose_by_kind(influence: Sequence[float], keep: int, kinds: Sequence[object]) -> list[int]:
    """The rising indices, 0 and the last among them, whose kinds are kinds[:keep] and whose influence adds up to
    most.
    """
    last = len(influence) - 1
    if kinds[keep - 1] != kinds[last]:
        raise ValueError(
            f"a model of {last + 1} layers can't be cut to {keep}: its last layer is of another kind than "
            f"layer {keep - 1}"
        )
    # best[n]: (sum of influence, the indices) of the best choice of n blocks among those seen, None where there is none
    # yet.
    best: list[tuple[float, list[int]] | None] = [None, (influence[0], [0])] + [None] * (keep - 1)
    for index in range(1, last):
        for count in range(min(index, keep - 2), 0, -1):
            shorter, longer = best[count], best[count + 1]
            if (
                shorter is not None
                and kinds[index] == kinds[count]
                and (longer is None or shorter[0] + influence[index] > longer[0])
            ):
                best[count + 1] = (shorter[0] + influence[index], [*shorter[1], index])
    chosen = best[keep - 1]
    assert chosen is not None, "the first blocks are always a choice"
    return [*chosen[1], last]


def cut_layers(model: "PreTrainedModel", keep: Sequence[int]) -> "PreTrainedModel":
    """A model of the given blocks alone. It shares its weights with `model`, so that nothing is in memory twice.

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
    for pattern in ("layer_types", "no_rope_layers"):
        if getattr(config, pattern, None) is not None:
            setattr(config, pattern, [getattr(config, pattern)[index] for index in kept])
    moved = {old: new for new, old in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if (match := _LAYER.fullmatch(name)) is None:
            state[name] = value.detach()
        elif (old := int(match[1])) in moved:
            state[f"model.layers.{moved[old]}.{match[2]}"] = value.detach()
    cut = assemble(config, state)
    cut.generation_config = copy.deepcopy(model.generation_config)
    return cut


def build_depth(student: DepthStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the layers of the teacher that stay to `work`, and which they are and why to `layers.json`.

    The teacher is in memory once: what is written are its own weights.
    """
    model = load_model(origin.teacher, device=origin.device)
    keep = student.layers_of(len(model.model.layers))
    save_model(shallower_by_text(model, keep, student.choose, origin, (work, progress)), origin.teacher, work)


def shallower_by_text(
    model: "PreTrainedModel", keep: int, choose: Choose, origin: Origin, out: tuple[Path, Progress]
) -> "PreTrainedModel":
    """The model of the layers that stay, chosen on the origin's text; `layers.json` is written to the folder `out`.

    It shares its weights with `model`.
    """
    work, progress = out
    texts = first_tokens(origin.texts, INFLUENCE_TOKENS)
    tokens = sum(text.numel() for text in texts)
    gone = len(model.model.layers) - keep
    report: dict[str, Any]
    progress.start("block influence" if choose == "influence" else "angular distance", tokens, "tokens")
    with torch.autocast(model.device.type, origin.compute, enabled=origin.compute != torch.float32):
        if choose == "influence" or gone == 0:
            influence = block_influence(model, texts)
            kept = choose_layers(influence, keep, layer_kinds(model))
            report = {"kept": kept, "influence": influence}
        else:
            distances = angular_distances(model, texts, gone)
            kept = choose_contiguous(distances, keep, layer_kinds(model))
            report = {"kept": kept, "angular_distance": distances}
    progress.advance(tokens)
    progress.finish()
    work.mkdir(parents=True, exist_ok=True)
    (work / LAYERS).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return cut_layers(model, kept)
