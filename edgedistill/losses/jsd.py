"""Generalized Jensen-Shannon divergence: β KL(p ‖ m) + (1 − β) KL(q ‖ m), m = β p + (1 − β) q, teacher p, student q.

Bounded, by log 2 at β = ½. Divided by β it tends to KL(p ‖ q) for β → 0, divided by 1 − β to KL(q ‖ p) for β → 1; at 0
and 1 it vanishes.
Over grouped outcomes the tail is one term of each sum: its mass is compared, and what lies where in it is not.
Source: Agarwal et al., On-Policy Distillation (GKD, arXiv 2306.13649).
"""

from torch import Tensor

from edgedistill.losses.sides import Side, log_ratio, mixture, through_softmax


def jsd(teacher: Side, student: Side, beta: float) -> tuple[Tensor, Tensor]:
    """See `Divergence`; 0 < beta < 1. The gradient is (1 − β) q · (log(q/m) − KL(q ‖ m))."""
    mixed = mixture(teacher, student, beta)
    of_teacher = log_ratio(teacher, mixed).mul_(teacher.probabilities).sum(-1)
    slopes = log_ratio(student, mixed).mul_(student.probabilities)
    values = beta * of_teacher + (1 - beta) * slopes.sum(-1)
    return values, through_softmax(slopes, student.probabilities).mul_(1 - beta)
