"""Cross-entropy on text: −log q of the token that was written (sequence-level KD, Kim and Rush 2016)."""

import torch
from torch import Tensor


class CrossEntropy:
    """−log q(label) of each token."""

    def __init__(self, labels: Tensor) -> None:
        """Take the [N] token ids that follow."""
        self.labels = labels

    def chunk(self, start: int, stop: int) -> "CrossEntropy":
        """See `HeadLoss`."""
        return CrossEntropy(self.labels[start:stop])

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. The gradient is q − onehot(label)."""
        labels = self.labels[start : start + logits.shape[0]].long().unsqueeze(-1)
        log_q = torch.log_softmax(logits, -1)
        values = -log_q.gather(-1, labels).squeeze(-1)
        grad = log_q.exp_()
        return values, grad.scatter_add_(-1, labels, torch.full_like(labels, -1, dtype=grad.dtype))
