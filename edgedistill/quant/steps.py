"""A grid's steps: the numbers that a scale is multiplied by, and the codes that stand for them."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Whole numbers `low` to `high` with code = step + `zero`; or whole `levels`, where the code is an index."""

    low: float
    high: float
    zero: int = 0
    levels: tuple[float, ...] | None = None

    @classmethod
    def of_levels(cls, levels: tuple[float, ...]) -> "Steps":
        """Steps that are a table's values, by code."""
        if any(level != int(level) for level in levels):
            raise ValueError(f"the levels of a grid are whole numbers, got {levels}")
        return cls(min(levels), max(levels), 0, levels)

    def nearest_(self, scaled: Tensor) -> Tensor:
        """The nearest step to each float32 number, written over it. Halfway goes to even, for levels up; NaN stays."""
        if self.levels is None:
            return scaled.round_().clamp_(self.low, self.high)
        # Levels are whole, so the bounds between them are halves: the half below a number tells its level. Looking it
        # up takes a twentieth of torch.bucketize's time.
        table = _nearest_table(self.levels, scaled.device)
        halves = scaled.mul_(2).floor_().clamp_(2 * self.low, 2 * self.high).sub_(2 * self.low - 1)
        return scaled.copy_(_look_up(table, halves))

    def nearest_within(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest steps, and a mask: 1 where a number rounds to one of them, 0 beyond them; both float32."""
        if self.levels is None:
            rounded = scaled.round()
            steps = rounded.clamp(self.low, self.high)
            return steps, torch.eq(rounded, steps, out=rounded)
        inside = scaled.clamp(self.low, self.high)
        return self.nearest_(scaled.clone()), torch.eq(inside, scaled, out=inside)

    def to_codes(self, steps: Tensor) -> Tensor:
        """Stored codes, uint8 (int8 where codes have a sign), of float32 steps; same shape."""
        if self.levels is None:
            return (steps + self.zero).to(torch.int8 if self.low + self.zero < 0 else torch.uint8)
        return _look_up(_code_table(self.levels, steps.device), steps - self.low)

    def of_codes(self, codes: Tensor) -> Tensor:
        """Float32 steps of stored codes; same shape."""
        if self.levels is None:
            return codes.float().sub_(self.zero) if self.zero else codes.float()
        return _look_up(_level_table(self.levels, codes.device), codes)


def _look_up(table: Tensor, at: Tensor) -> Tensor:
    """table[at] by 32-bit indices along one dimension, which is several times as fast on a CPU.

    NaN becomes 0, or on x86 the lowest integer.
    """
    return table.index_select(0, at.reshape(-1).to(torch.int32).clamp_(min=0)).view(at.shape)


@functools.cache
def _level_table(levels: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32).to(device)


@functools.cache
def _code_table(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """The code of each whole number from the lowest level on; 0 where no level is, the first code of equal levels."""
    low = int(min(levels))
    codes = torch.zeros(int(max(levels)) - low + 1, dtype=torch.uint8)
    for code, level in reversed(list(enumerate(levels))):
        codes[int(level) - low] = code
    return codes.to(device)


@functools.cache
def _nearest_table(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """NaN, and from 1 on the nearest level to numbers in [low + (i - 1)/2, low + i/2): entry i."""
    ordered = torch.tensor(sorted(set(levels)), dtype=torch.float32)
    halves = torch.arange(2 * int(min(levels)), 2 * int(max(levels)) + 1) / 2
    nearest = ordered[torch.bucketize(halves, (ordered[1:] + ordered[:-1]) / 2, right=True)]
    return torch.cat([torch.tensor([float("nan")]), nearest]).to(device)
