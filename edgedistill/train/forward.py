"""From packed documents to the hidden states that a loss looks at."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from edgedistill.data.packing import Batch, Packable, make_batch, pack_rows

# Whose decoders take a mask for each of the config's layer_types; the others take one mask for all layers.
KINDS_OF_LAYERS = ("qwen2", "qwen3", "gemma3_text", "smollm3")
COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compute_in(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Run matrix products in `dtype` while weights, norms and the residual stream stay float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)


def kept_hidden(model: PreTrainedModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The model's last hidden states after the final norm at the batch's kept positions: [N, D] of `dtype`.

    Their products with the output matrix are the logits: a family that scales its logits (granite) has it done here.
    """
    masks = attention_masks(model.config, batch, dtype)
    with compute_in(dtype):
        hidden = model.model(input_ids=batch.tokens, position_ids=batch.positions, attention_mask=masks, use_cache=False).last_hidden_state
    kept = hidden.flatten(0, 1)[batch.kept]
    return (kept / getattr(model.config, "logits_scaling", 1.0)).to(dtype)


def attention_masks(config: PreTrainedConfig, batch: Batch, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Which positions see which, as a mask [B, 1, T, T] that is added: for all layers, or by kind of layer where a family has kinds.

    Documents in one row don't see each other, and a sliding window reaches back within its own document.
    """

    def added(seen: Tensor) -> Tensor:
        # sdpa takes a mask that is added; a bool one would be cast anew in every layer.
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))

    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None:
        whole = added(batch.attention)
        return {kind: whole for kind in kinds} if config.model_type in KINDS_OF_LAYERS else whole
    at = torch.arange(batch.tokens.shape[1])
    near = batch.attention & (at.unsqueeze(1) - at.unsqueeze(0) < window)
    if config.model_type in KINDS_OF_LAYERS:
        return {kind: added(near if kind == "sliding_attention" else batch.attention) for kind in kinds}
    return added(near)


def batches(documents: Sequence[Packable], seq_len: int, rows_per_batch: int) -> Iterator[tuple[Batch, list[int]]]:
    """All documents once, packed; with each batch, its documents' indices in the order of its kept positions."""
    rows = pack_rows([len(d.tokens) for d in documents], seq_len)
    for start in range(0, len(rows), rows_per_batch):
        chosen = rows[start : start + rows_per_batch]
        yield make_batch([[documents[i] for i in row] for row in chosen], seq_len), [i for row in chosen for i in row]
