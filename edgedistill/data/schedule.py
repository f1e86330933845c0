"""Which packed rows each step trains on: all alike, a share of them general text, or the easy ones first.

Rows are made within bands: a row holds texts of one pool (chats, or general text) and, where the order says so, of
about one difficulty. All that is drawn depends on the seed alone, so a killed training goes on as it would have.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.data.packing import pack_rows, schedule_rows
from edgedistill.data.seeds import ROW_ORDER, derived_seed

BANDS = 8  # of difficulty: fewer would mix the easy with the hard, more would leave rows half empty
# Competence of Platanios et al. 2019 ("Competence-based Curriculum Learning", equation 7): the share of the texts, the
# easiest first, that step t of T reaches is sqrt(t / T (1 - c0²) + c0²).
FIRST_SHARE = 1 / BANDS
OPEN_AFTER = 0.5  # share of the training from which all texts are open


@dataclass(frozen=True)
class Pool:
    """Examples that are drawn together.

    Attributes:
        indices: of the examples.
        share: of the rows of a training that are drawn from it.
    """

    indices: Sequence[int]
    share: float


@dataclass(frozen=True)
class Budget:
    """How much a training draws: rows of `seq_len` tokens, so many a step, so many steps, by a seed."""

    seq_len: int
    rows_per_step: int
    steps: int
    seed: int


def plan_rows(
    lengths: Sequence[int], pools: Sequence[Pool], budget: Budget, difficulty: Sequence[float] | None = None
) -> list[list[list[int]]]:
    """By step, its rows, each the indices of its examples.

    Args:
        lengths: tokens of each example; more than a row's count as a row's.
        pools: whose shares add up to 1; one of share 1 for all alike.
        budget: how much is drawn.
        difficulty: of each example; None draws all alike.
    Raises:
        ValueError: a pool is empty.
    """
    if any(not pool.indices for pool in pools):
        raise ValueError("a pool of rows to draw from is empty")
    numbers = _pool_numbers([pool.share for pool in pools], budget.rows_per_step * budget.steps)
    draws = [iter(_draws(lengths, pool, numbers.count(n), budget, difficulty, n)) for n, pool in enumerate(pools)]
    rows = [next(draws[number]) for number in numbers]
    size = budget.rows_per_step
    return [rows[step * size : (step + 1) * size] for step in range(budget.steps)]


def _pool_numbers(shares: Sequence[float], count: int) -> list[int]:
    """Which pool each of `count` rows comes from, each as evenly over the training as its share allows."""
    taken = [0] * len(shares)
    numbers = []
    for position in range(1, count + 1):
        number = max(range(len(shares)), key=lambda n: (shares[n] * position - taken[n], -n))
        taken[number] += 1
        numbers.append(number)
    return numbers


def _draws(
    lengths: Sequence[int],
    pool: Pool,
    count: int,
    budget: Budget,
    difficulty: Sequence[float] | None,
    number: int,
) -> list[list[int]]:
    """The rows that a training draws from one pool, in order."""
    if difficulty is None:
        rows = [[pool.indices[i] for i in row] for row in pack_rows([lengths[i] for i in pool.indices], budget.seq_len)]
        seed = budget.seed if number == 0 else derived_seed(budget.seed, f"{ROW_ORDER} {number}")
        return [rows[row] for (row,) in schedule_rows(len(rows), 1, count, seed)]
    ordered = sorted(pool.indices, key=lambda index: (difficulty[index], index))
    size = math.ceil(len(ordered) / BANDS)
    rows = []
    for start in range(0, len(ordered), size):
        band = ordered[start : start + size]
        rows += [[band[i] for i in row] for row in pack_rows([lengths[i] for i in band], budget.seq_len)]
    return _easy_first(rows, count, derived_seed(budget.seed, f"{ROW_ORDER} easy first {number}"))


def _easy_first(rows: Sequence[list[int]], count: int, seed: int) -> list[list[int]]:
    """Rows in order of difficulty, drawn from those that are open: each time one that was drawn least often."""
    rng = random.Random(seed)
    times = [0] * len(rows)
    drawn = []
    for position in range(count):
        progress = min(1.0, position / (OPEN_AFTER * count))
        reach = math.sqrt(progress * (1 - FIRST_SHARE**2) + FIRST_SHARE**2)
        reached = max(1, math.ceil(reach * len(rows) - 1e-9))
        least = min(times[:reached])
        row = rng.choice([index for index in range(reached) if times[index] == least])
        times[row] += 1
        drawn.append(rows[row])
    return drawn
