"""Attention of packed rows, document by document: nothing is computed for pairs that don't see each other.

A mask over whole rows computes all T² pairs and throws most away: with documents of 256 tokens in rows of 512, seven of
eight. Here each document is a causal attention of its own, which the kernel also computes half of only. Registered with
transformers as "edgedistill_documents"; every family hands its keywords through to it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "edgedistill_documents"


def attend_by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    documents: Sequence[int],
    watch: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface.

    Args:
        query: [B, H, T, D]; `key` and `value` [B, H or fewer, T, D].
        attention_mask: not looked at.
        sliding_window: how many tokens back a token sees, itself included; None for all.
        documents: lengths, in the order of the flattened rows, that sum to B · T; padding counts as documents too.
        watch: is shown the block's index, from 0, and its query, key and value.
    Returns:
        [B, T, H, D], and no weights.
    """
    if watch is not None:
        watch(int(module.layer_idx), query, key, value)  # type: ignore[arg-type]
    batch, heads, width, _size = query.shape
    shared = heads // key.shape[1]
    parts: list[Sequence[Tensor]] = []
    for side in (query, key, value):
        rows = side.transpose(1, 2).reshape(batch * width, side.shape[1], -1)
        parts.append(_apart(rows, documents))
    outputs: list[Tensor] = []
    for q, k, v in zip(*parts, strict=True):
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        length = q.shape[2]
        near = sliding_window is not None and sliding_window < length
        mask = _window(length, int(sliding_window or 0), q) if near else None
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).view(batch, width, heads, -1), None


def _apart(rows: Tensor, documents: Sequence[int]) -> list[Tensor]:
    """[S, H, D] -> [n, H, L, D] of each run of n neighbours with the same length L."""
    runs: list[tuple[int, int]] = []  # (documents, their length)
    for length in documents:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    # One split: its gradient is one concatenation, where slices would each make a whole tensor of zeros.
    pieces = rows.split([count * length for count, length in runs])
    return [piece.unflatten(0, run).transpose(1, 2) for piece, run in zip(pieces, runs, strict=True)]


def _window(length: int, reach: int, like: Tensor) -> Tensor:
    """[L, L] to add: 0 where a token sees another, −inf elsewhere; of the type of `like`, on its device."""
    at = torch.arange(length, device=like.device)
    back = at.unsqueeze(1) - at.unsqueeze(0)
    return like.new_zeros(length, length).masked_fill_((back < 0) | (back >= reach), float("-inf"))


AttentionInterface.register(NAME, attend_by_document)
