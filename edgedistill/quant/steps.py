"""A grid's steps: the numbers that a scale is multiplied by, and the codes that stand for them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Whole numbers from `low` to `high`, where code = step + `zero`; or `levels`, where the code is an index."""

    low: float
    high: float
    zero: int = 0
    levels: tuple[float, ...] | None = None

    @classmethod
    def of_levels(cls, levels: tuple[float, ...]) -> "Steps":
        """Steps that are a table's values, by code."""
        return cls(min(levels), max(levels), 0, levels)

    def nearest_(self, scaled: Tensor) -> Tensor:
        """The nearest step to each float32 number, in place where steps are whole; halfway goes up, for levels down."""
        if self.levels is None:
            return scaled.add_(0.5).floor_().clamp_(self.low, self.high)
        table, _, bounds = self._sorted(scaled)
        return table[torch.bucketize(scaled, bounds)]

    def to_codes(self, steps: Tensor) -> Tensor:
        """Stored codes, uint8 (int8 where codes have a sign), of float32 steps; same shape."""
        if self.levels is None:
            return (steps + self.zero).to(torch.int8 if self.low + self.zero < 0 else torch.uint8)
        _, codes, bounds = self._sorted(steps)
        return codes[torch.bucketize(steps, bounds)].to(torch.uint8)

    def of_codes(self, codes: Tensor) -> Tensor:
        """Float32 steps of stored codes; same shape."""
        if self.levels is None:
            return codes.float() - self.zero if self.zero else codes.float()
        return torch.tensor(self.levels, device=codes.device)[codes.long()]

    def _sorted(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels in rising order, their codes, and the bounds between neighbours."""
        assert self.levels is not None
        table, codes = torch.tensor(self.levels, dtype=torch.float32, device=like.device).sort(stable=True)
        return table, codes, (table[1:] + table[:-1]) / 2
