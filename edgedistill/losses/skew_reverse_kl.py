"""Skew reverse KL: KL(q ‖ m), m = α q + (1 − α) p, teacher p, student q.

Reverse KL that stays bounded where the teacher gives nearly nothing to a word of the student: no value exceeds −log α.
Over grouped outcomes the tail's term is q_r (log q_r − log m_r): as with reverse KL, where in the tail the student's
mass lies is free.
Source: Ko et al., DistiLLM (arXiv 2402.03898); they take α = 0.1.
"""

import torch
from torch import Tensor

from edgedistill.losses.sides import Side, log_ratio, mixture, through_softmax


def skew_reverse_kl(teacher: Side, student: Side, alpha: float) -> tuple[Tensor, Tensor]:
    """See `Divergence`; 0 < alpha < 1. The gradient is q · (g − Σ q g) with g = log(q/m) − α q/m."""
    mixed = mixture(student, teacher, alpha)
    slopes = log_ratio(student, mixed)
    values = (student.probabilities * slopes).sum(-1)
    slopes = torch.addcdiv(slopes, student.probabilities, mixed, value=-alpha).mul_(student.probabilities)
    return values, through_softmax(slopes, student.probabilities)
