"""Rows by step: shares of the pools, the easy ones first, the same draws again."""

from collections import Counter

import pytest

from edgedistill.data.packing import pack_rows, schedule_rows
from edgedistill.data.schedule import BANDS, Budget, Pool, plan_rows

BUDGET = Budget(seq_len=32, rows_per_step=2, steps=40, seed=3)


def test_one_pool_draws_as_schedule_rows_does():
    lengths = [5 + number % 17 for number in range(60)]
    rows = pack_rows(lengths, 32)
    expected = [[rows[row] for row in step] for step in schedule_rows(len(rows), 2, 40, 3)]
    assert plan_rows(lengths, [Pool(range(60), 1.0)], BUDGET) == expected


def test_a_share_of_the_rows_comes_from_each_pool_evenly_over_the_training():
    lengths = [20] * 50
    plan = plan_rows(lengths, [Pool(range(40), 0.75), Pool(range(40, 50), 0.25)], BUDGET)
    general = [int(row[0] >= 40) for step in plan for row in step]
    assert all(len({index >= 40 for index in row}) == 1 for step in plan for row in step)
    assert sum(general) == 20
    assert all(sum(general[start : start + 8]) == 2 for start in range(0, 80, 8))


def test_an_epoch_of_each_pool_holds_each_of_its_examples_once():
    lengths = [30] * 20
    plan = plan_rows(lengths, [Pool(range(15), 0.5), Pool(range(15, 20), 0.5)], BUDGET)
    seen = Counter(index for step in plan for row in step for index in row)
    assert {seen[index] for index in range(15)} == {2, 3}
    assert {seen[index] for index in range(15, 20)} == {8}


def test_easy_rows_come_first_and_all_are_open_from_the_middle_on():
    lengths = [31] * 80
    difficulty = [float(79 - index) for index in range(80)]
    plan = plan_rows(lengths, [Pool(range(80), 1.0)], BUDGET, difficulty)
    drawn = [difficulty[row[0]] for step in plan for row in step]
    # Platanios et al. 2019, equation 7 with c0 = 1/8 and all texts open after half of the training.
    for position, value in enumerate(drawn):
        progress = min(1.0, position / 40)
        assert value < (progress * (1 - 1 / 64) + 1 / 64) ** 0.5 * 80 + 1
    assert max(drawn) == 79
    assert set(Counter(drawn).values()) <= {1, 2}
    assert plan == plan_rows(lengths, [Pool(range(80), 1.0)], BUDGET, difficulty)


def test_a_row_holds_texts_of_about_one_difficulty():
    lengths = [4] * 160
    difficulty = [float(index * 7 % 160) for index in range(160)]
    plan = plan_rows(lengths, [Pool(range(160), 1.0)], BUDGET, difficulty)
    for step in plan:
        for row in step:
            values = [difficulty[index] for index in row]
            assert max(values) - min(values) < 160 / BANDS


def test_an_empty_pool_is_refused():
    with pytest.raises(ValueError, match="pool of rows to draw from is empty"):
        plan_rows([4], [Pool([0], 0.5), Pool([], 0.5)], BUDGET)
