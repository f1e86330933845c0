"""Shares of items with their intervals, and differences between two files' shares of the same items."""

from dataclasses import dataclass

from edgedistill.results.codec import JsonData, absent


@dataclass(frozen=True)
class TaskShare(JsonData):
    """A share of items, with its 95 % interval: questions answered right, or requests refused."""

    items: int
    share: float
    low: float
    high: float
    right: int | None = absent()
    refused: int | None = absent()


@dataclass(frozen=True)
class Difference(JsonData):
    """A file's share minus the float model's on the same items, with its paired 95 % interval."""

    difference: float
    low: float
    high: float
    items: int | None = None

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0
