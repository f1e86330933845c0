"""Intervals of the F1 of fields against plain loops over the same resamples, and against what must hold of any."""

import numpy as np
import pytest

from edgedistill.measure.bootstrap import RESAMPLES, SEED, f1_difference, f1_interval, micro_f1

RNG = np.random.default_rng(7)
GOOD = [(int(RNG.integers(2, 5)), int(RNG.integers(0, 2)), int(RNG.integers(0, 2))) for _ in range(60)]
WORSE = [(max(0, both - 1), got + 1, missing + 1) for both, got, missing in GOOD]


def plain_f1(rows: list[tuple[int, int, int]]) -> float:
    both, got, missing = (sum(row[n] for row in rows) for n in range(3))
    return 2 * both / (2 * both + got + missing) if both + got + missing else 0.0


def plain_resamples(rows: list[tuple[int, int, int]]) -> list[float]:
    drawn = np.random.default_rng(SEED).integers(0, len(rows), (RESAMPLES, len(rows)))
    return [plain_f1([rows[index] for index in each]) for each in drawn]


def test_an_interval_is_made_of_the_percentiles_of_resampled_rows():
    low, high = f1_interval(GOOD, 0.95)
    expected = np.quantile(plain_resamples(GOOD), (0.025, 0.975))
    assert (low, high) == pytest.approx(tuple(expected))
    assert micro_f1(GOOD) == pytest.approx(plain_f1(GOOD))
    assert low < micro_f1(GOOD) < high


def test_a_difference_is_taken_on_the_same_rows():
    difference, low, high = f1_difference(GOOD, WORSE, 0.95)
    apart = [b - a for a, b in zip(plain_resamples(GOOD), plain_resamples(WORSE), strict=True)]
    assert difference == pytest.approx(plain_f1(WORSE) - plain_f1(GOOD))
    assert (low, high) == pytest.approx(tuple(np.quantile(apart, (0.025, 0.975))))
    assert low < difference < high < 0
    own = f1_interval(GOOD, 0.95)
    assert high - low < own[1] - own[0], "pairs are surer than two files apart"
    assert f1_difference(GOOD, GOOD, 0.95) == (0.0, 0.0, 0.0)
    assert f1_difference(WORSE, GOOD, 0.95)[0] == pytest.approx(-difference)


def test_more_confidence_is_wider_and_edges_are_edges():
    narrow, wide = f1_interval(GOOD, 0.9), f1_interval(GOOD, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert f1_interval([(3, 0, 0)] * 5, 0.95) == (1.0, 1.0)
    assert f1_interval([(0, 0, 0)] * 5, 0.95) == (0.0, 0.0)
    with pytest.raises(ValueError, match="pairs need the same rows, got 1 and 2"):
        f1_difference([(1, 0, 0)], [(1, 0, 0)] * 2, 0.95)
