"""Forward KL: KL(p ‖ q) = Σ p (log p − log q), teacher p, student q.

The student pays where it gives little to what the teacher may say, so it covers all of the teacher.
Over grouped outcomes the tail's term is p_r (log p_r − log q_r): the student learns how much the teacher gives to the
tail as a whole, and keeps its own proportions within it.
Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, less the teacher's entropy.
"""

import torch
from torch import Tensor

from edgedistill.losses.exact import ExactLoss
from edgedistill.losses.sides import Side
from edgedistill.losses.teachers import ExactTeacher


def forward_kl(teacher: Side, student: Side) -> tuple[Tensor, Tensor]:
    """See `Divergence`. The gradient is q − p."""
    # Σ p (log p − log q) with log p = z − log Z: three passes over the vocabulary fewer than with two log-softmaxes.
    difference = torch.sub(teacher.logits, student.logits, out=student.logits)
    values = difference.mul_(teacher.probabilities).sum(-1, keepdim=True) + student.normalizer - teacher.normalizer
    return values.squeeze(-1), student.probabilities.sub_(teacher.probabilities)


class ForwardKL(ExactLoss):
    """Forward KL to a teacher that comes as hidden states [N, D] and output matrix [V, D]: what the stages train and
    validate with.
    """

    def __init__(self, teacher_hidden: Tensor, teacher_weight: Tensor, temperature: float = 1.0) -> None:
        """See `ExactTeacher` and `ExactLoss`."""
        super().__init__(forward_kl, ExactTeacher(teacher_hidden, teacher_weight), temperature)
