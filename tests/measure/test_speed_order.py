"""Files timed in turn: over a whole square of rounds each file comes behind each other one equally often."""

from collections import Counter
from itertools import pairwise

import pytest

from edgedistill.measure.speed import Trial, round_order, time_in_turn
from edgedistill.progress import QuietProgress
from edgedistill.runtimes.speed import TimedRun


@pytest.mark.parametrize("files", range(1, 10))
def test_every_file_comes_behind_every_other_as_often(files: int):
    rounds = files * (1 + files % 2)
    orders = [round_order(files, number) for number in range(rounds)]
    assert all(sorted(order) == list(range(files)) for order in orders)
    behind = Counter(pair for order in orders for pair in pairwise(order))
    assert len(behind) == files * (files - 1)
    assert len(set(behind.values())) <= 1


def test_each_file_keeps_its_own_trials_whatever_the_order():
    run, asked = TimedRun(1.0, 1.0, 1.0), list[int]()

    def timed(file: int, number: int) -> Trial:
        asked.append(file)
        return Trial(run, run, float(file), 0, 1, None)

    speeds = time_in_turn([lambda n, file=file: timed(file, n) for file in range(4)], 3, QuietProgress())
    assert [speed.load_s for speed in speeds] == [0.0, 1.0, 2.0, 3.0]
    assert asked[:4] != asked[4:8]
