"""Names of a plot's points keep off each other, off the marks, and inside."""

import random

import pytest

from edgedistill.report.labels import Box, place

AREA = Box(0, 0, 400, 300)


@pytest.mark.parametrize("seed", range(6))
def test_sixteen_names_in_a_crowd_do_not_overlap_and_stay_inside(seed):
    rng = random.Random(seed)
    points = [(rng.uniform(30, 370), rng.uniform(20, 280)) for _ in range(10)]
    points += [(100 + rng.uniform(-25, 25), 150 + rng.uniform(-25, 25)) for _ in range(6)]
    boxes = place(points, [(45.0, 16.0)] * 16, AREA, points, [])
    assert len(boxes) == 16
    for index, box in enumerate(boxes):
        assert box.outside(AREA) == 0
        assert (box.right - box.left, box.bottom - box.top) == pytest.approx((45.0, 16.0))
        for other in boxes[index + 1 :]:
            assert box.overlap(other) == 0


def test_a_lone_name_stands_to_the_right_and_turns_at_the_edge():
    (box,) = place([(100.0, 100.0)], [(40.0, 16.0)], AREA, [(100.0, 100.0)], [])
    assert box.left > 100
    assert box.top < 100 < box.bottom
    (box,) = place([(395.0, 100.0)], [(40.0, 16.0)], AREA, [(395.0, 100.0)], [])
    assert box.right < 395


def test_a_name_gives_way_to_a_line():
    line = ((100.0, 100.0), (300.0, 100.0))
    (box,) = place([(100.0, 100.0)], [(40.0, 16.0)], AREA, [(100.0, 100.0)], [line])
    assert box.crossed(*line) == 0


def test_the_length_of_a_line_in_a_box():
    box = Box(0, 0, 10, 10)
    assert box.crossed((-5, 5), (15, 5)) == pytest.approx(10)
    assert box.crossed((0, 0), (10, 10)) == pytest.approx(200**0.5)
    assert box.crossed((-5, 20), (15, 20)) == 0
    assert box.crossed((2, 2), (4, 2)) == pytest.approx(2)
