"""The output layer and its loss in one pass over chunks of tokens, so that [N, V] logits never exist at once.

A loss on logits z = hidden · weightᵀ has the gradients dhidden = dz · weight and dweight = dzᵀ · hidden. Both are
computed chunk by chunk while the chunk's logits are at hand; backward only scales them. At N = 1024 and V = 49,152
that is 12 MB of logits at a time instead of 200 MB for each of logits, log-probabilities and their gradients.
Source of the idea: fused linear cross-entropy (Liger kernel, arXiv 2410.10989).
"""

from typing import Protocol

import torch
from torch import Tensor

# Tokens at a time: at V = 49,152 a chunk's float32 logits are 12 MB, small enough for a last-level cache, and the
# products still run at full speed (with 32 they take 1.6 times as long).
CHUNK = 64


class HeadLoss(Protocol):
    """A loss of logits against something known for each of N tokens."""

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Sum of the loss over a chunk in nats, and its gradient.

        Args:
            logits: [n, V] float32 of tokens start .. start + n; may be overwritten.
            start: the chunk's first token among the N.
        Returns:
            Scalar float32 (a sum, not a mean) and d(sum)/d(logits) [n, V] float32.
        """
        ...


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, loss: HeadLoss, chunk: int) -> Tensor:  # type: ignore[no-untyped-def]
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        tokens = hidden.shape[0]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32)
        for start in range(0, tokens, chunk):
            rows = hidden[start : start + chunk]
            summed, grad = loss.loss_and_grad((rows @ weight.T).float(), start)
            total += summed
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = grad @ weight
            if grad_weight is not None:
                grad_weight += (grad.T @ rows).float()
        ctx.grads = (grad_hidden, grad_weight, tokens, weight.dtype)
        return total / tokens

    @staticmethod
    def backward(ctx, scale: Tensor):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight, tokens, dtype = ctx.grads
        factor = scale / tokens
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(factor)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(factor).to(dtype)
        return grad_hidden, grad_weight, None, None


def head_loss(hidden: Tensor, weight: Tensor, loss: HeadLoss, chunk: int = CHUNK) -> Tensor:
    """Mean of `loss` over N tokens, in nats per token.

    Args:
        hidden: [N, D] last hidden states after the final norm; float32 or bfloat16. The products run in its type.
        weight: [V, D] output matrix of the same type.
        chunk: tokens whose logits exist at once.
    Returns:
        Scalar float32.
    Raises:
        ValueError: there is no token, or the types differ.
    """
    if hidden.shape[0] == 0:
        raise ValueError("head_loss needs at least one token, got hidden states of shape " + str(tuple(hidden.shape)))
    if hidden.dtype != weight.dtype:
        raise ValueError(f"head_loss needs one type, got hidden {hidden.dtype} and weight {weight.dtype}")
    return _ChunkedHead.apply(hidden, weight, loss, chunk)  # type: ignore[no-any-return]
