"""The knapsack against trying everything."""

import itertools
import random

import pytest

from edgedistill.recover import knapsack
from edgedistill.recover.knapsack import choose

Options = list[list[tuple[int, float]]]


def cases(seed: int, unit: int) -> tuple[Options, int]:
    rng = random.Random(seed)
    options = [
        [(unit * rng.randint(1, 20), rng.random()) for _ in range(rng.randint(1, 4))] for _ in range(rng.randint(1, 6))
    ]
    least, most = (sum(pick(size for size, _ in group) for group in options) for pick in (min, max))
    return options, rng.randint(least, most + unit)


def totals(options: Options, chosen: tuple[int, ...]) -> tuple[int, float]:
    picked = [group[index] for group, index in zip(options, chosen, strict=True)]
    return sum(size for size, _ in picked), sum(cost for _, cost in picked)


@pytest.mark.parametrize("seed", range(60))
def test_it_is_the_best_of_all_ways(seed: int):
    options, capacity = cases(seed, unit=18 if seed % 2 else 1)
    ways = (totals(options, way) for way in itertools.product(*(range(len(group)) for group in options)))
    best = min(cost for size, cost in ways if size <= capacity)
    size, cost = totals(options, tuple(choose(options, capacity)))
    assert size <= capacity
    assert cost == pytest.approx(best)


@pytest.mark.parametrize("seed", range(20))
def test_counted_in_coarse_units_it_still_fits_and_is_nearly_the_best(seed: int, monkeypatch: pytest.MonkeyPatch):
    options, capacity = cases(seed, unit=10_007)
    exact = totals(options, tuple(choose(options, capacity)))[1]
    monkeypatch.setattr(knapsack, "UNITS", 50)
    size, cost = totals(options, tuple(choose(options, capacity)))
    assert size <= capacity
    # Six groups lose at most six units of fifty.
    free = capacity - sum(min(size for size, _ in group) for group in options)
    monkeypatch.setattr(knapsack, "UNITS", 10**6)
    less = totals(options, tuple(choose(options, capacity - len(options) * (free // 50 + 1))))[1] if free else exact
    assert exact <= cost + 1e-12
    assert cost <= less + 1e-12


def test_what_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="the smallest options take 7 bytes, and 6 are allowed"):
        choose([[(3, 0.0), (9, 0.0)], [(4, 1.0)]], 6)
    assert choose([[(3, 0.0)], [(4, 1.0)]], 7) == [0, 0]
