"""Confidence intervals of a share, and of the difference between two shares on the same items.

Whether a file got worse than another is decided on pairs: items that both got right, or both wrong, say nothing about
that.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
HALVINGS = 60  # of an interval of length 2: to 2e-18


@dataclass(frozen=True)
class PairedDifference:
    """Two files on the same items.

    Attributes:
        n: items.
        only_first: items that only the first got; only_second: likewise.
        difference: share of the second minus share of the first, in [-1, 1].
        low, high: its interval.
        p_value: of "both are equally good", two-sided.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float


def wilson(count: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The score interval of a share count/n (Wilson 1927; method 3 of Newcombe 1998, Statistics in Medicine 17:857).

    Raises:
        ValueError: n is not above 0, or count is not in 0..n.
    """
    if n <= 0 or not 0 <= count <= n:
        raise ValueError(f"a share needs items and a count among them, got {count} of {n}")
    z = _z(confidence)
    share = count / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The exact limits of no and of all items are 0 and 1; rounding would miss them by an ulp.
    return (0.0 if count == 0 else (middle - half) / scale), (1.0 if count == n else (middle + half) / scale)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compare two files by their right answers to the same items, in the same order.

    The interval is Tango's score interval, which holds its level with few differing items too; it leaves 0 out exactly
    where McNemar's test without correction is below 1 - confidence. The p-value is McNemar's mid-p (Fagerland, Lydersen
    and Laake 2013).

    Raises:
        ValueError: there is no item, or not as many of both.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"pairs need the same items, at least one, got {len(first)} and {len(second)}")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = len(first)
    low, high = tango(only_second, only_first, n, confidence)
    return PairedDifference(
        n, only_first, only_second, (only_second - only_first) / n, low, high, mcnemar_mid_p(only_first, only_second)
    )


def tango(more: int, fewer: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of (more - fewer)/n, where `more` of n pairs differ one way and `fewer` the other.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """
    z = _z(confidence)
    observed = (more - fewer) / n

    def score(difference: float) -> float:
        """Standardised distance of the counts from a supposed difference; falls as that grows."""
        b = -more - fewer + (2 * n - more + fewer) * difference
        c = -fewer * difference * (1 - difference)
        # The most likely share of `fewer` given the difference.
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        distance = more - fewer - n * difference
        if variance > 0:
            return distance / math.sqrt(variance)
        return math.copysign(math.inf, distance) if distance else 0.0

    return _falls_to(score, z, -1.0, observed), _falls_to(score, -z, observed, 1.0)


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """Two-sided mid-p of the binomial test that differing items fall either way alike; 1 where none differs."""
    n, low = only_first + only_second, min(only_first, only_second)
    # Σ C(n, k) for k < low, and C(n, low). Integers, since no float holds 2**n where many items differ.
    below, term = 0, 1
    for k in range(low):
        below, term = below + term, term * (n - k) // (k + 1)
    return (2 * below + term) / 2**n


def _falls_to(score: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a falling function reaches `target` between low and high, by halving the interval."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > target else (low, middle)
    return (low + high) / 2


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)
