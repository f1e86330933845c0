"""How far a run is: counts and seconds on a clock that the tests turn."""

from pathlib import Path

import pytest

from edgedistill.pipeline.schedule import Schedule
from edgedistill.pipeline.stage import Finished, Stage
from edgedistill.plan.types import StageEstimate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def nothing(_folder: Path, _done: Finished) -> None:
    pass


def stage(name: str, kind: str, seconds: float) -> Stage:
    return Stage(name, kind, nothing, estimate=StageEstimate(seconds=seconds))


def test_what_stages_took_corrects_what_is_left():
    clock = Clock()
    teach = stage("teach", "teach", 100.0)
    recoveries = [stage(f"recover-{mix}", "recover", 50.0) for mix in ("q4_0", "q8_0", "q2_k")]
    report = stage("report", "papers", 10.0)
    schedule = Schedule([teach, *recoveries, report], clock)
    assert schedule.left_s() == 260
    schedule.start(teach)
    assert schedule.text() == "stage 1 of 5, about 4 min left in all"
    clock.now += 60
    assert schedule.left_s() == 40 + 160
    assert schedule.left_s(task_left_s=140.0) == 140 + 160  # the bar at hand knows better
    assert schedule.left_s(task_left_s=1.0) == 40 + 160  # but another may follow it in the same stage
    clock.now += 140
    schedule.finish(built=True)
    # It took twice as long as expected, and so will the others until one of their kind is done.
    assert schedule.left_s() == pytest.approx(2 * 160, rel=0.06)
    schedule.start(recoveries[0])
    clock.now += 30
    schedule.finish(built=True)
    assert schedule.left_s() == pytest.approx(2 * 30 + 10 * (230 / 150), rel=0.12)
    schedule.start(recoveries[1])
    clock.now += 1
    before = schedule.left_s()
    schedule.finish(built=False)  # it was there: that says nothing of how long one takes
    assert schedule.left_s() == pytest.approx(before - 30, rel=0.1)
    schedule.start(recoveries[2])
    schedule.finish(built=False)
    schedule.start(report)
    assert schedule.text() == "stage 5 of 5, nearly done"


def test_a_stage_of_seconds_hardly_moves_an_estimate_of_hours():
    clock = Clock()
    small, large = stage("student", "student", 4.0), stage("recover-q4_0", "recover", 7200.0)
    schedule = Schedule([small, large], clock)
    schedule.start(small)
    clock.now += 40  # ten times as long as expected
    schedule.finish(built=True)
    assert schedule.left_s() == pytest.approx(7200, rel=0.15)
