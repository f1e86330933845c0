"""From packed documents to the hidden states that a loss looks at."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistill.data.example import Example
from edgedistill.data.packing import Batch, make_batch, pack_rows
from edgedistill.losses.blocks import Attending, BlockNeeds, BlockOutputs
from edgedistill.machine import compute_of
from edgedistill.train import attention
from edgedistill.train.lean import lean


def compute_type(setting: str) -> torch.dtype:
    """The type of the matrix products for a recipe's `compute`, on this machine."""
    return torch.bfloat16 if compute_of(setting) == "bfloat16" else torch.float32


def compute_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products on a device in `dtype` while weights, norms and the residual stream stay float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def kept_hidden(model: PreTrainedModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The model's last hidden states after the final norm at the batch's kept positions: [N, D] of `dtype`.

    Their products with the output matrix are the logits: a family that scales its logits (granite) has it done here.
    """
    with compute_in(dtype, batch.tokens.device), by_document(model), lean(model):
        hidden = model.model(
            input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, documents=batch.documents
        ).last_hidden_state
    kept = hidden.flatten(0, 1)[batch.kept]
    return (kept / getattr(model.config, "logits_scaling", 1.0)).to(dtype)


def kept_blocks(
    model: PreTrainedModel, batch: Batch, dtype: torch.dtype, needs: BlockNeeds
) -> tuple[Tensor, BlockOutputs]:
    """`kept_hidden`, and what else the same pass leaves of the model's blocks, with its graph.

    States are those of the residual stream in float32; the last layer's are taken behind the final norm, and a family
    that scales its logits has them unscaled.
    """
    states: dict[int, Tensor] = {}
    attention: dict[int, Attending] = {}

    def watch(index: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        if index + 1 in needs.attention:
            attention[index + 1] = Attending(
                *(side.transpose(1, 2).flatten(2).flatten(0, 1) for side in (query, key, value))
            )

    def hook(layer: int) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            states[layer] = after.flatten(0, 1)[batch.kept]

        return keep

    last = len(model.model.layers)
    hooks = [model.model.layers[n - 1].register_forward_hook(hook(n)) for n in needs.states if n != last]
    try:
        with compute_in(dtype, batch.tokens.device), by_document(model), lean(model):
            hidden = model.model(
                input_ids=batch.tokens,
                position_ids=batch.positions,
                use_cache=False,
                documents=batch.documents,
                watch=watch,
            ).last_hidden_state
    finally:
        for each in hooks:
            each.remove()
    kept = hidden.flatten(0, 1)[batch.kept]
    if last in needs.states:
        states[last] = kept
    return (kept / getattr(model.config, "logits_scaling", 1.0)).to(dtype), BlockOutputs(states, attention)


@contextmanager
def by_document(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's attention take `documents` within."""
    before = model.config._attn_implementation
    model.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def batches(
    documents: Sequence[Example], seq_len: int, rows_per_batch: int, device: str | torch.device = "cpu"
) -> Iterator[tuple[Batch, list[int]]]:
    """All documents once, packed, on a device; with each batch, its documents' indices in the order of its kept
    positions.
    """
    rows = pack_rows([len(d.tokens) for d in documents], seq_len)
    for start in range(0, len(rows), rows_per_batch):
        chosen = rows[start : start + rows_per_batch]
        batch = make_batch([[documents[i] for i in row] for row in chosen], seq_len)
        yield batch.to(device), [i for row in chosen for i in row]
