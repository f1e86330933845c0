"""−log q(y) of a token y drawn from the model's own distribution q: the score whose squared gradients are the Fisher
information.

At the model itself the Fisher information is the Hessian of KL(model ‖ model + change), so it says what a change of
each weight costs in KL (Martens 2020, arXiv 1412.1193, section 5). Labels from the text instead would give the
empirical Fisher, which isn't that.
"""

import torch
from torch import Tensor


class OwnSample:
    """−log q(y), y ~ q, drawn anew for each token."""

    def __init__(self, seed: int) -> None:
        """Draw from a generator of its own."""
        self.generator = torch.Generator().manual_seed(seed)
        # Of each block of tokens that was seen, 1 − Σ q²: what the squared score of the logits sums up to over the
        # vocabulary on average.
        self.spread: list[Tensor] = []

    def chunk(self, start: int, stop: int) -> "OwnSample":
        """See `HeadLoss`. Tokens are drawn in the order in which they come."""
        return self

    def loss_and_grad(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `HeadLoss`. The gradient is q − onehot(y)."""
        q = torch.softmax(logits, -1)
        self.spread.append(1 - torch.linalg.vector_norm(q, dim=-1).square())
        # By the inverse of the distribution function: torch.multinomial takes tens of times as long for a whole
        # vocabulary.
        mass = q.cumsum(-1)
        # Drawn on the processor: the same on all devices.
        drawn = torch.rand(len(q), 1, generator=self.generator).to(mass.device) * mass[:, -1:]
        labels = torch.searchsorted(mass, drawn).clamp_(max=q.shape[1] - 1)
        values = -q.gather(-1, labels).log().squeeze(-1)
        return values, q.scatter_add_(-1, labels, torch.full_like(labels, -1, dtype=q.dtype))
