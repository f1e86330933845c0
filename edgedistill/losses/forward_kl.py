"""Forward KL against a teacher whose exact distribution is known: KL(teacher ‖ student).

The teacher comes as its last hidden states and output matrix, which give all V probabilities at 2·D bytes a token
instead of 2·V (Hinton et al. 2015, section 2, for the temperature and its square).
"""

from torch import Tensor

from edgedistill.losses.softmax import softmax_and_normalizer


class ForwardKL:
    """Sum over tokens of Σ_v p_v (log p_v − log q_v), both softened by `temperature`, times its square."""

    def __init__(self, teacher_hidden: Tensor, teacher_weight: Tensor, temperature: float = 1.0) -> None:
        """Take the teacher of N tokens.

        Args:
            teacher_hidden: [N, D] after the final norm.
            teacher_weight: [V, D], the same type.
            temperature: above 0.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.hidden, self.weight, self.temperature = teacher_hidden, teacher_weight, temperature

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. The gradient is T · (q − p)."""
        rows = self.hidden[start : start + logits.shape[0]]
        teacher = (rows @ self.weight.T).float()
        if self.temperature != 1.0:
            logits, teacher = logits / self.temperature, teacher / self.temperature
        q, student_normalizer = softmax_and_normalizer(logits)
        p, teacher_normalizer = softmax_and_normalizer(teacher)
        # Σ p (log p − log q) with log p = z − log Z: three passes over the vocabulary fewer than with two log-softmaxes.
        summed = (p * teacher.sub_(logits)).sum() + (student_normalizer - teacher_normalizer).sum()
        grad = q.sub_(p)
        if self.temperature == 1.0:
            return summed, grad
        return summed * self.temperature**2, grad.mul_(self.temperature)
