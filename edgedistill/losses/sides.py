"""The two sides of a divergence, teacher and student, as probabilities and logits of the same outcomes.

A divergence takes both sides and returns its value and its gradient with respect to the student's logits. Outcomes are
the V tokens of the vocabulary, or the k tokens that a teacher names and all others as one; no divergence knows which.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-37  # a mixture's probability where both sides underflow to 0, so that its logarithm stays finite


@dataclass(frozen=True)
class Side:
    """One side's n distributions over M outcomes.

    Attributes:
        probabilities: [n, M] float32.
        logits: [n, M] float32, the logarithms of the probabilities plus `normalizer`, finite where a probability
            underflows.
        normalizer: [n, 1] float32, log Σ exp(logits).
    """

    probabilities: Tensor
    logits: Tensor
    normalizer: Tensor


# (teacher, student) -> the divergence of each of the n pairs in nats [n], and its gradient with respect to the
# student's logits [n, M]. The student's probabilities and logits may be overwritten, the teacher's not.
Divergence = Callable[[Side, Side], tuple[Tensor, Tensor]]


def side_of(logits: Tensor) -> Side:
    """The side that float32 logits [n, V] give, in one softmax.

    The normalizer is max z − log max p, which is exact to rounding because max p is never below 1/V.
    """
    probabilities = torch.softmax(logits, -1)
    return Side(probabilities, logits, logits.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log())


def mixture(first: Side, second: Side, share: float) -> Tensor:
    """m = share · first + (1 − share) · second, [n, M], never 0."""
    return torch.lerp(second.probabilities, first.probabilities, share).clamp_min_(SMALLEST)


def log_ratio(side: Side, mixed: Tensor) -> Tensor:
    """log(side / mixture), [n, M], finite."""
    return (side.logits - side.normalizer).sub_(mixed.log())


def through_softmax(slopes: Tensor, student: Tensor) -> Tensor:
    """The gradient with respect to logits from the one with respect to probabilities.

    Args:
        slopes: [n, M] q · ∂D/∂q; overwritten.
        student: [n, M] q.
    Returns:
        [n, M] q · (∂D/∂q − Σ q ∂D/∂q).
    """
    return slopes.addcmul_(student, slopes.sum(-1, keepdim=True), value=-1)
