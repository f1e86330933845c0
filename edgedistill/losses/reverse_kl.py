"""Reverse KL: KL(q ‖ p) = Σ q (log q − log p), teacher p, student q.

The student pays where it says what the teacher would not, so it keeps to the teacher's likeliest words and may drop
others. Over grouped outcomes the tail's term is q_r (log q_r − log p_r): what the student puts into the tail is weighed
against the tail's whole mass. Where in the tail it lies is free, so a bad word there costs no more than a good one.
Source: Gu et al., MiniLLM (arXiv 2306.08543), taken token by token.
"""

from torch import Tensor

from edgedistill.losses.sides import Side


def reverse_kl(teacher: Side, student: Side) -> tuple[Tensor, Tensor]:
    """See `Divergence`. The gradient is q · (log(q/p) − KL(q ‖ p))."""
    difference = student.logits.sub_(teacher.logits)
    mean = (student.probabilities * difference).sum(-1, keepdim=True)
    values = mean - student.normalizer + teacher.normalizer
    return values.squeeze(-1), difference.sub_(mean).mul_(student.probabilities)
