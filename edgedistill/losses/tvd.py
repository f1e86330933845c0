"""Total variation distance: ½ Σ |p − q|, teacher p, student q.

The largest difference that any set of words has between the two, from 0 to 1. Its gradient does not grow with the
difference, only its sign counts, so a word that the student gets far wrong pulls no harder than one that it nearly has.
Over grouped outcomes the tail's term is ½ |p_r − q_r|: differences within the tail cancel.
Source: Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation (arXiv 2307.15190).
"""

import torch
from torch import Tensor

from edgedistill.losses.sides import Side, through_softmax


def tvd(teacher: Side, student: Side) -> tuple[Tensor, Tensor]:
    """See `Divergence`. The gradient is ½ q · (s − Σ q s) with s = sign(q − p), 0 where both are equal."""
    difference = torch.sub(student.probabilities, teacher.probabilities, out=student.logits)
    values = difference.abs().sum(-1) / 2
    return values, through_softmax(difference.sign_().mul_(student.probabilities).mul_(0.5), student.probabilities)
