"""A packed file and a reference at the same positions of a text: their KL, and whether both predict the same token.

For each position, in nats: KL(reference ‖ file) = Σ_v p_v log p_v − Σ_v p_v log q_v. The first sum is the reference's
own and is taken once for all files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.measure.judge import ReferenceView


@dataclass(frozen=True)
class FilePrediction:
    """A file's log-probabilities [n, V] in nats at n positions, and the largest of each position [n]."""

    log_q: Tensor
    largest: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "FilePrediction":
        """The prediction of logits [n, V]."""
        log_q = torch.log_softmax(logits, -1)
        return cls(log_q, log_q.amax(-1))


@dataclass(frozen=True)
class PositionComparison:
    """A file and a reference at n positions.

    Attributes:
        kl: [n] nats; within float32's rounding of 0 where both agree, below 0 too.
        same: [n] bool, whether the reference's likeliest token is one of the file's likeliest.
        likeliest: [n] token ids, the reference's.
        p_likeliest: [n] the reference's probability of them.
        log_q: [n, V] the file's log-probabilities on the rows that both have.
    """

    kl: Tensor
    same: Tensor
    likeliest: Tensor
    p_likeliest: Tensor
    log_q: Tensor


def compare(view: ReferenceView, logits: Tensor, prediction: FilePrediction) -> PositionComparison:
    """Compare a reference's view, whose `p` is overwritten, with a file's logits [n, V] and their prediction."""
    rows = view.p.shape[-1]
    if rows < logits.shape[-1]:  # the file has padding rows that the reference lacks
        prediction = FilePrediction.of(logits[:, :rows])
    p_likeliest = at(view.p, view.likeliest)
    # In place: hundreds of MB a second of fresh memory cost as much as the sums.
    kl = view.negative_entropy - view.p.mul_(prediction.log_q).sum(-1)
    same = at(prediction.log_q, view.likeliest) == prediction.largest
    return PositionComparison(kl, same, view.likeliest, p_likeliest, prediction.log_q)


def at(values: Tensor, ids: Tensor) -> Tensor:
    """Of values [n, V] the one at each position's id [n]."""
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
