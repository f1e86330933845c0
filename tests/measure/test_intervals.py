"""Intervals against published tables and against chance itself."""

import math

import numpy as np
import pytest

from edgedistill.measure.answers import differences
from edgedistill.measure.intervals import mcnemar_mid_p, paired_difference, tango, wilson


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(count, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson(count, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(n - count, n) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_wilson_ends_are_where_the_score_is_z():
    low, high = wilson(30, 100)
    for end in (low, high):
        assert abs(0.3 - end) / math.sqrt(end * (1 - end) / 100) == pytest.approx(1.959964, abs=1e-5)
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


def pairs(both, only_first, only_second, neither):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("table", "difference", "low", "high", "p_value"),
    [
        (
            (59, 16, 6, 80),
            -0.0621,
            -0.1240,
            -0.0054,
            0.034690,
        ),  # complete response after consolidation (Cavo et al. 2012)
        ((59, 6, 16, 80), 0.0621, 0.0054, 0.1240, 0.034690),
    ],
)
def test_pairs_are_those_of_the_textbook(table, difference, low, high, p_value):
    """Fagerland, Lydersen and Laake 2017, chapter 8, as R's contingencytables prints it: Tango's interval, McNemar's
    mid-p.
    """
    found = paired_difference(*pairs(*table))
    assert (found.n, found.only_first, found.only_second) == (161, table[1], table[2])
    assert found.difference == pytest.approx(difference, abs=5e-5)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found.p_value == pytest.approx(p_value, abs=5e-7)


def test_interval_leaves_zero_out_where_mcnemars_chi_square_does():
    for more in range(0, 40, 3):
        for fewer in range(0, 40, 3):
            low, high = tango(more, fewer, 200)
            chi_square = (more - fewer) ** 2 / (more + fewer) if more + fewer else 0.0
            assert (low > 0 or high < 0) == (chi_square > 1.959964**2), (more, fewer)


def test_interval_is_near_the_bootstraps():
    rng = np.random.default_rng(0)
    draws = rng.multinomial(600, [0.45, 0.11, 0.07, 0.37], 40_000)
    low, high = np.quantile((draws[:, 2] - draws[:, 1]) / 600, [0.025, 0.975])
    found = paired_difference(*pairs(270, 66, 42, 222))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.003), pytest.approx(high, abs=0.003))


def test_mid_p_is_its_definition():
    assert mcnemar_mid_p(1, 7) == pytest.approx(0.0390625)  # 2 (1 + 8) / 256 - 8 / 256
    assert mcnemar_mid_p(0, 0) == mcnemar_mid_p(5, 5) == 1.0
    assert mcnemar_mid_p(3000, 3200) == pytest.approx(math.erfc(200 / math.sqrt(2 * 6200)), rel=1e-3)


def test_edges():
    same = [True, False, True]
    found = paired_difference(same, same)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert -found.low == pytest.approx(found.high) == pytest.approx(3.841459 / (3 + 3.841459))
    assert paired_difference([True] * 9, [False] * 9).low == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([True, False], [True])
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_differences_that_are_shown_together_hold_together():
    """One of many comparisons is no certain loss where it would be one alone: 7 of 50 items lost, none won."""
    base, own = "1" * 30 + "0" * 20, "0" * 7 + "1" * 23 + "0" * 20
    alone = differences({"task": base}, {"task": own}, 1)["task"]
    of_forty = differences({"task": base}, {"task": own}, 40)["task"]
    assert alone.high < 0 < of_forty.high
    expected = paired_difference([c == "1" for c in base], [c == "1" for c in own], 1 - 0.05 / 40)
    assert (of_forty.low, of_forty.high) == (expected.low, expected.high)
