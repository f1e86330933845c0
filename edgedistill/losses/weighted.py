"""A weighted sum of losses on the same logits: losses of one teacher, or a loss of each of several (float student,
original teacher).
"""

from collections.abc import Sequence

from torch import Tensor

from edgedistill.losses.head import HeadLoss


class Weighted:
    """Σ weight · loss."""

    def __init__(self, parts: Sequence[tuple[float, HeadLoss]]) -> None:
        """Take (weight, loss) pairs; those of weight 0 are left out.

        Raises:
            ValueError: a weight is below 0, or nothing is left.
        """
        if any(weight < 0 for weight, _ in parts):
            raise ValueError(f"a weighted loss needs weights of 0 and above, got {[weight for weight, _ in parts]}")
        self.parts = [(weight, loss) for weight, loss in parts if weight != 0]
        if not self.parts:
            raise ValueError("a weighted loss needs a part with a weight above 0")

    def chunk(self, start: int, stop: int) -> "Weighted":
        """See `HeadLoss`."""
        return Weighted([(weight, loss.chunk(start, stop)) for weight, loss in self.parts])

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`."""
        (first_weight, first), *others = self.parts
        # A loss may overwrite its logits, so all but the last get a copy.
        total, grad = first.loss_and_grad(logits.clone() if others else logits, start)
        total, grad = total * first_weight, grad.mul_(first_weight)
        for position, (weight, loss) in enumerate(others, 1):
            values, part = loss.loss_and_grad(logits if position == len(others) else logits.clone(), start)
            total, grad = total + values * weight, grad.add_(part, alpha=weight)
        return total, grad
