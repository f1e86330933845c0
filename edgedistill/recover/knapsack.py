"""The choice of one option for each of many groups, of least total cost under a total size: a multiple-choice knapsack.

Solved by dynamic programming over sizes, counted from each group's smallest option in their greatest common divisor:
exact. Where that makes more than UNITS units, sizes are rounded up to a UNITS-th of what is free: the answer still
fits, and leaves at most groups/UNITS of that unused.
Source: Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), section 11.5.
"""

import math
from collections.abc import Sequence

import numpy as np

UNITS = 100_000


def choose(options: Sequence[Sequence[tuple[int, float]]], capacity: int) -> list[int]:
    """The option to take of each group.

    Args:
        options: a group each: (size in bytes, cost) of its options.
        capacity: what the sizes may add up to.
    Returns:
        An index into each group's options; of equal costs the first.
    Raises:
        ValueError: even the smallest options don't fit.
    """
    smallest = [min(size for size, _ in group) for group in options]
    free = capacity - sum(smallest)
    if free < 0:
        raise ValueError(f"the smallest options take {sum(smallest)} bytes, and {capacity} are allowed")
    extra = [[size - least for size, _ in group] for group, least in zip(options, smallest, strict=True)]
    unit = max(math.gcd(*(size for group in extra for size in group)), -(-free // UNITS), 1)
    total = free // unit
    best = np.zeros(total + 1)  # least cost of the groups so far, within each number of units
    taken = np.zeros((len(options), total + 1), dtype=np.int8)
    for number, group in enumerate(options):
        least = np.full(total + 1, np.inf)
        for index, (_, cost) in enumerate(group):
            units = -(-extra[number][index] // unit)
            if units <= total:
                here = np.full(total + 1, np.inf)
                here[units:] = best[: total + 1 - units] + cost
                better = here < least
                least[better], taken[number][better] = here[better], index
        best = least
    chosen, left = [0] * len(options), total
    for number in reversed(range(len(options))):
        chosen[number] = int(taken[number][left])
        left -= -(-extra[number][chosen[number]] // unit)
    return chosen
