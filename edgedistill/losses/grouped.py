"""A divergence from a teacher of whom the k likeliest words and their probabilities are known.

The rest counts as one outcome: the teacher's tail p_r = 1 − Σ p_k against the student's mass outside the k, q_r. All
the divergences here are f-divergences, which grouping outcomes can only lower (data processing inequality: Csiszár
1967), so the value is never above the full one and exactly zero when the two agree. What it can't see is how either
side spreads its mass within the tail, so the student's own
spread stays: a tail word's logit moves with the tail as a whole, in proportion to its probability.
"""

import torch
from torch import Tensor

from edgedistill.losses.sides import Divergence, Side, side_of
from edgedistill.losses.teachers import TopKTeacher

# Below this the teacher's tail is rounding: 1 − Σ p_k of float16 log-probabilities may even come out negative.
SMALLEST_TAIL = 1e-6
# The student's tail is a sum of its own probabilities and good to any size; this only keeps its logarithm finite.
SMALLEST_STUDENT_TAIL = 1e-30


class GroupedLoss:
    """The divergence between the grouped distributions of each token."""

    def __init__(self, divergence: Divergence, teacher: TopKTeacher) -> None:
        """Take a teacher of N tokens."""
        self.divergence, self.teacher = divergence, teacher

    def chunk(self, start: int, stop: int) -> "GroupedLoss":
        """See `HeadLoss`."""
        return GroupedLoss(self.divergence, self.teacher.chunk(start, stop))

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. With g the gradient for the grouped outcomes: g_k on the k, and g_r · q / q_r elsewhere."""
        ids = self.teacher.ids[start : start + logits.shape[0]].long()
        known_log = self.teacher.log_probs[start : start + logits.shape[0]].float()
        known = known_log.exp()
        tail = (1 - known.sum(-1, keepdim=True)).clamp_min(SMALLEST_TAIL)
        student = side_of(logits)
        none = torch.zeros_like(student.normalizer)
        # The tail summed without the k, since 1 − Σ q_k loses all digits of a small one.
        student_known = student.probabilities.gather(-1, ids)
        spread = student.probabilities.scatter_(-1, ids, 0.0)
        student_tail = spread.sum(-1, keepdim=True).clamp_min_(SMALLEST_STUDENT_TAIL)
        student_log = torch.cat([logits.gather(-1, ids) - student.normalizer, student_tail.log()], -1)
        values, grad = self.divergence(
            Side(torch.cat([known, tail], -1), torch.cat([known_log, tail.log()], -1), none),
            Side(torch.cat([student_known, student_tail], -1), student_log, none),
        )
        return values, spread.mul_(grad[:, -1:] / student_tail).scatter_(-1, ids, grad[:, :-1])
