"""Softmax and its log-normalizer in one pass each over the vocabulary."""

import torch
from torch import Tensor


def softmax_and_normalizer(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, V] and log Σ exp(z) [n] of float32 logits [n, V].

    The normalizer is max z − log max p, which is exact to rounding because max p is never below 1/V.
    """
    probabilities = torch.softmax(logits, -1)
    return probabilities, logits.amax(-1) - probabilities.amax(-1).log()
