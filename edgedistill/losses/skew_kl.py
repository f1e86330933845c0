"""Skew KL: KL(p ‖ m), m = α p + (1 − α) q, teacher p, student q.

Forward KL whose gradient stays bounded where the student gives nearly nothing to a word of the teacher: no value
exceeds −log α. Over grouped outcomes the tail's term is p_r (log p_r − log m_r).
Source: Ko et al., DistiLLM (arXiv 2402.03898); they take α = 0.1.
"""

from torch import Tensor

from edgedistill.losses.sides import Side, log_ratio, mixture, through_softmax


def skew_kl(teacher: Side, student: Side, alpha: float) -> tuple[Tensor, Tensor]:
    """See `Divergence`; 0 < alpha < 1. The gradient is (1 − α) q · (Σ q p/m − p/m)."""
    mixed = mixture(teacher, student, alpha)
    values = log_ratio(teacher, mixed).mul_(teacher.probabilities).sum(-1)
    slopes = mixed.reciprocal_().mul_(teacher.probabilities).mul_(student.probabilities).mul_(alpha - 1)
    return values, through_softmax(slopes, student.probabilities)
