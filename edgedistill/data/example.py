"""Example: what a model reads of one text, and how much each of its tokens counts.

A chat's answer counts and its question doesn't; of prose every token counts. So a weight stands beside each prediction:
`weight[t]` is that of predicting `tokens[t + 1]` at position t. A position is kept where its weight is above 0. Only
kept positions have a teacher's signal, and all means (loss, KL, perplexity) are sums weighted by them.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Example:
    """One text with its weights and the teacher's signal.

    Attributes:
        tokens: [n] int32 ids, n >= 1.
        weight: [n - 1] float16, at least 0: how much the prediction at each position counts.
        signal: by name, tensors with one row for each kept position, in order.
        trace_id: the trace that it was made of; "" where there is none.
        every: by name, tensors with one row for each token, for what a kept position sees of those before it.
    Raises:
        ValueError: there are not n - 1 weights.
    """

    tokens: Tensor
    weight: Tensor
    signal: dict[str, Tensor] = field(default_factory=dict)
    trace_id: str = ""
    every: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.weight) != len(self.tokens) - 1:
            raise ValueError(
                f"an example of {len(self.tokens)} tokens needs {len(self.tokens) - 1} weights, got {len(self.weight)}"
            )

    @cached_property
    def positions(self) -> Tensor:
        """[N] int64: the kept positions, ascending."""
        return self.weight.nonzero().squeeze(-1)

    @property
    def kept(self) -> int:
        """N: the number of positions that count."""
        return len(self.positions)

    @cached_property
    def labels(self) -> Tensor:
        """[N] int64: the token after each kept position."""
        return self.tokens[self.positions + 1].long()

    @cached_property
    def weights(self) -> Tensor:
        """[N] float32: the weights of the kept positions."""
        return self.weight[self.positions].float()

    def cut(self, length: int) -> "Example":
        """The first `length` tokens, with the signal of the positions that are left."""
        if length >= len(self.tokens):
            return self
        weight = self.weight[: length - 1]
        kept = int((weight > 0).sum())
        return replace(
            self,
            tokens=self.tokens[:length],
            weight=weight,
            signal={name: rows[:kept] for name, rows in self.signal.items()},
            every={name: rows[:length] for name, rows in self.every.items()},
        )

    def without_last(self) -> "Example":
        """The same without its last kept position, cut behind it."""
        kept = self.positions[:-1]
        return self.cut(int(kept[-1]) + 2)

    def with_signal(self, **signal: Tensor) -> "Example":
        """The same text with this signal in place of its own; without arguments, with none."""
        return replace(self, signal=signal)


def counted_from(
    tokens: Tensor, first: int = 0, signal: dict[str, Tensor] | None = None, trace_id: str = ""
) -> Example:
    """An example whose positions count alike from position `first` on: the weights before it are 0, all others 1."""
    weight = torch.ones(len(tokens) - 1, dtype=torch.float16)
    weight[:first] = 0
    return Example(tokens, weight, signal or {}, trace_id)
