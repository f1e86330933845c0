"""A divergence on the k likeliest words of a teacher alone: both sides are made to sum up to 1 over these.

All other words don't count, on either side. That is what lets a temperature be applied to a teacher of whom the k
likeliest words are known: p'_i ∝ p_i^(1/T) over the k is exact, while how T would move mass between the k and the rest
depends on each of the words that aren't known. What it can't see is how much the student gives to words outside the k,
so it goes with a term that does: the same divergence over grouped outcomes, or the text.
As in DistillKit's sparse losses (arcee-ai/DistillKit, `missing_probability_handling: zero` with renormalization).
"""

from torch import Tensor

from edgedistill.losses.sides import Divergence, side_of
from edgedistill.losses.teachers import TopKTeacher


class RenormalizedLoss:
    """T² · D(p', q') of each token, both softened by T over the teacher's k likeliest words alone."""

    def __init__(self, divergence: Divergence, teacher: TopKTeacher, temperature: float = 1.0) -> None:
        """Take a teacher of N tokens."""
        self.divergence, self.teacher, self.temperature = divergence, teacher, temperature

    def chunk(self, start: int, stop: int) -> "RenormalizedLoss":
        """See `HeadLoss`."""
        return RenormalizedLoss(self.divergence, self.teacher.chunk(start, stop), self.temperature)

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. The gradient is T · dD/du on the k, with u = z/T, and 0 elsewhere."""
        ids = self.teacher.ids[start : start + logits.shape[0]].long()
        teacher = self.teacher.log_probs[start : start + logits.shape[0]].float() / self.temperature
        student = logits.gather(-1, ids) / self.temperature
        values, grad = self.divergence(side_of(teacher), side_of(student))
        return values * self.temperature**2, logits.zero_().scatter_(-1, ids, grad * self.temperature)
