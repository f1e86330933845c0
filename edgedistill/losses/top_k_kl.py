"""Forward KL against a teacher of whom the k likeliest tokens are known, and the mass of the rest.

The rest counts as one outcome: Σ_k p_k (log p_k − log q_k) + p_r (log p_r − log q_r), with q_r the student's mass
outside the k. It is the KL between the two distributions after that grouping, so never above the full one, and
exactly zero when they agree.
"""

from torch import Tensor

from edgedistill.losses.softmax import softmax_and_normalizer

# Below this a mass is rounding: 1 − Σ p_k of float16 log-probabilities may even come out negative.
SMALLEST_MASS = 1e-6


class TopKKL:
    """Sum over tokens of the grouped KL; the missing mass is one outcome."""

    def __init__(self, ids: Tensor, log_probs: Tensor) -> None:
        """Take the teacher of N tokens.

        Args:
            ids: [N, K] integer token ids, distinct within a row.
            log_probs: [N, K] natural logarithms of their probabilities at temperature 1, any float type.
        """
        if ids.shape != log_probs.shape:
            raise ValueError(f"ids and log_probs must have one shape, got {tuple(ids.shape)} and {tuple(log_probs.shape)}")
        self.ids, self.log_probs = ids, log_probs

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. The gradient is q − p on the k, and q · (1 − p_r / q_r) elsewhere."""
        ids = self.ids[start : start + logits.shape[0]].long()
        known_log = self.log_probs[start : start + logits.shape[0]].float()
        known = known_log.exp()
        rest = (1 - known.sum(-1)).clamp_min(SMALLEST_MASS)
        student, normalizer = softmax_and_normalizer(logits)
        student_known = student.gather(-1, ids)
        student_known_log = logits.gather(-1, ids) - normalizer.unsqueeze(-1)
        student_rest = (1 - student_known.sum(-1)).clamp_min(SMALLEST_MASS)
        summed = (known * (known_log - student_known_log)).sum() + (rest * (rest.log() - student_rest.log())).sum()
        grad = student.mul_((1 - rest / student_rest).unsqueeze(-1)).scatter_(-1, ids, student_known - known)
        return summed, grad
