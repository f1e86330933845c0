"""A divergence from a teacher whose whole distribution is known.

Both sides are softened by a temperature T and the result is multiplied by T², so the gradient keeps its size when the
temperature changes (Hinton et al. 2015, arXiv 1503.02531, section 2).
"""

from torch import Tensor

from edgedistill.losses.sides import Divergence, side_of
from edgedistill.losses.teachers import ExactTeacher, LiveLogits


class ExactLoss:
    """T² · D(p, q) of each token, both softened by T."""

    def __init__(self, divergence: Divergence, teacher: ExactTeacher | LiveLogits, temperature: float = 1.0) -> None:
        """Take a teacher of N tokens.

        Raises:
            ValueError: the temperature is not above 0.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.divergence, self.teacher, self.temperature = divergence, teacher, temperature

    def chunk(self, start: int, stop: int) -> "ExactLoss":
        """See `HeadLoss`."""
        return ExactLoss(self.divergence, self.teacher.chunk(start, stop), self.temperature)

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. With u = z/T, d(T² D)/dz is T · dD/du.

        Raises:
            ValueError: the teacher has another vocabulary or other tokens than the student.
        """
        teacher = self.teacher.logits(start, start + logits.shape[0])
        if teacher.shape != logits.shape:
            raise ValueError(
                f"a teacher with logits {tuple(teacher.shape)} cannot teach a student with logits "
                f"{tuple(logits.shape)}: "
                "both need the same tokens and the same vocabulary"
            )
        if self.temperature == 1.0:
            values, grad = self.divergence(side_of(teacher), side_of(logits))
            return values, grad
        values, grad = self.divergence(side_of(teacher / self.temperature), side_of(logits.div_(self.temperature)))
        return values.mul_(self.temperature**2), grad.mul_(self.temperature)
