"""The output layer and its loss in one pass over chunks of tokens, so that [N, V] logits never exist at once.

A loss on logits z = hidden · weightᵀ has the gradients dhidden = dz · weight and dweight = dzᵀ · hidden. All are
computed chunk by chunk while the chunk's logits are at hand; backward only scales them. A chunk is as long as the
products need for their full speed. Within it the loss goes by blocks of few rows, whose dozen passes over the
vocabulary then run in the cache, and dz takes the logits' place. At N = 4096 and V = 262,144 a chunk's float32 logits
are 134 MB, where the whole would be 4.3 GB for each of logits, log-probabilities and their gradients.
Source of the idea: fused linear cross-entropy (Liger kernel, arXiv 2410.10989).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Tokens of a chunk: with 256 the head takes 18 % less time than with 64, and no less with 512
# (bench/results/head_loss.json). A larger vocabulary gets by with fewer, since its chunk's logits are what memory is
# needed for: 128 at V = 262,144 take 6 % longer than 256.
CHUNK, CHUNK_LOGITS = 256, 2**25
# On another device each operation is a launch: 512 MiB of float32 at once.
CHUNK_ELSEWHERE, LOGITS_ELSEWHERE = 2048, 2**27
# Logits that a thread works on at once, 1 MiB in float32: half or four times as many take as long, 16 times as many 8
# to 20 % longer.
BLOCK_LOGITS = 2**18
# Rows of a bfloat16 weight's gradient that are made at once before they go into the float32 sum.
WEIGHT_ROWS = 8192


class HeadLoss(Protocol):
    """A loss of logits against something known for each of N tokens."""

    def chunk(self, start: int, stop: int) -> "HeadLoss":
        """The loss of tokens start .. stop alone, counted from 0, with all done that is better done for many tokens at
        once.
        """
        ...

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """The loss of each token of a block in nats, and its gradient.

        Args:
            logits: [n, V] float32 of tokens start .. start + n; may be overwritten.
            start: the block's first token among the N.
        Returns:
            [n] float32, a value for each token, and [n, V] float32, the gradient of each with respect to its logits.
        """
        ...


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, hidden: Tensor, weight: Tensor, loss: HeadLoss, token_weights: Tensor | None, chunk: int
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        (tokens, _), vocabulary = hidden.shape, weight.shape[0]
        chunk = -(-tokens // -(-tokens // chunk))  # as many chunks, all of about one length
        # Softmax gives each row to one thread; on another device a block is the chunk.
        on_processor = hidden.device.type == "cpu"
        block = torch.get_num_threads() * max(1, BLOCK_LOGITS // vocabulary) if on_processor else chunk
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        count = tokens if token_weights is None else token_weights.sum()
        buffer = torch.empty(chunk, vocabulary, dtype=hidden.dtype, device=hidden.device)
        for start in range(0, tokens, chunk):
            rows = hidden[start : start + chunk]
            logits = torch.mm(rows, weight.T, out=buffer[: len(rows)])
            part = loss.chunk(start, start + len(rows))
            for first in range(0, len(rows), block):
                here = logits[first : first + block]
                values, grad = part.loss_and_grad(here.float(), first)
                if token_weights is not None:
                    share = token_weights[start + first : start + first + len(here)]
                    values, grad = values * share, grad.mul_(share.unsqueeze(-1))
                total += values.sum()
                here.copy_(grad)
            del part  # before the next chunk's is made
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[start : start + len(rows)])
            if grad_weight is not None:
                _add_product(grad_weight, logits, rows)
        ctx.grads = (grad_hidden, grad_weight, count, weight.dtype)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor):  # type: ignore[no-untyped-def]
        if ctx.grads is None:
            raise RuntimeError(
                "the gradients of head_loss were made with its value and have been handed out: compute the loss anew"
            )
        (grad_hidden, grad_weight, count, dtype), ctx.grads = ctx.grads, None
        factor = scale / count
        if grad_hidden is not None:
            grad_hidden.mul_(factor)
        if grad_weight is not None:
            grad_weight = _scaled(grad_weight, factor, dtype)
        return grad_hidden, grad_weight, None, None, None


def _add_product(total: Tensor, grad: Tensor, rows: Tensor) -> None:
    """total [V, D] += gradᵀ [V, n] · rows [n, D], the sum over chunks in float32."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, rows)
        return
    for start in range(0, len(total), WEIGHT_ROWS):
        total[start : start + WEIGHT_ROWS] += grad[:, start : start + WEIGHT_ROWS].T @ rows


def _scaled(total: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """total · factor in `dtype`. There is no memory for a second copy, so a narrower result overwrites the front of
    `total`.
    """
    if total.dtype == dtype:
        return total.mul_(factor)
    front = total.view(-1).view(dtype)[: total.numel()].view(total.shape)
    # Rows are read at 4 bytes an element and written at 2, so what is written never reaches what is still to be read.
    for start in range(0, len(total), WEIGHT_ROWS):
        front[start : start + WEIGHT_ROWS] = total[start : start + WEIGHT_ROWS] * factor
    return front


def head_loss(
    hidden: Tensor, weight: Tensor, loss: HeadLoss, token_weights: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Mean of `loss` over N tokens, Σ w_t loss_t / Σ w_t, in nats per token.

    Args:
        hidden: [N, D] last hidden states after the final norm; float32 or bfloat16. The products run in its type.
        weight: [V, D] output matrix of the same type. Its gradient, where it wants one, is summed in float32: 4·V·D
            bytes.
        token_weights: [N] how much each token counts, 0 and above, any float type; None: all of them 1.
        chunk: tokens whose logits exist at once; None takes what is fast for the vocabulary.
    Returns:
        Scalar float32, whose gradient can be taken once.
    Raises:
        ValueError: there is no token, the types differ, or the token weights are not [N], of 0 and above, not all 0.
    """
    if hidden.shape[0] == 0:
        raise ValueError("head_loss needs at least one token, got hidden states of shape " + str(tuple(hidden.shape)))
    if hidden.dtype != weight.dtype:
        raise ValueError(f"head_loss needs one type, got hidden {hidden.dtype} and weight {weight.dtype}")
    if token_weights is not None:
        token_weights = _checked(token_weights, hidden.shape[0]).to(hidden.device)
    if chunk is None:
        tokens, logits = (CHUNK, CHUNK_LOGITS) if hidden.device.type == "cpu" else (CHUNK_ELSEWHERE, LOGITS_ELSEWHERE)
        chunk = max(1, min(tokens, logits // weight.shape[0]))
    return _ChunkedHead.apply(hidden, weight, loss, token_weights, chunk)  # type: ignore[no-any-return]


def _checked(token_weights: Tensor, tokens: int) -> Tensor:
    """The weights in float32."""
    if token_weights.shape != (tokens,):
        raise ValueError(f"head_loss needs a weight for each of {tokens} tokens, got {tuple(token_weights.shape)}")
    weights = token_weights.float()
    if not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError("head_loss needs token weights of 0 and above, at least one of them above 0")
    return weights
