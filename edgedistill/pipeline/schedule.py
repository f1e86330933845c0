"""How far a run is: which stage of how many, and the time left in all. Seconds.

What each stage takes is its estimate, corrected by what stages took here: a machine that needed twice as long to judge
one file will need twice as long for the next. A correction counts for as much as was seen: a stage of seconds says
little of one of hours.
"""

import time
from collections.abc import Callable, Sequence

from edgedistill.pipeline.stage import Stage
from edgedistill.show import show_seconds

SHOWN_FROM_S = 20.0  # below it "nearly done" is all that can be said
# What the estimate itself weighs against what was measured, as a share of all that is estimated.
PRIOR_SHARE = 0.05
LEAST_S = 0.1


class Schedule:
    """The stages of a run: those done, the one at work, those to come."""

    def __init__(self, stages: Sequence[Stage], now: Callable[[], float] = time.monotonic) -> None:
        """Take all stages, in order."""
        self._to_come = list(stages)
        self._now = now
        self._total = len(stages)
        self._number = 0
        self._at_work: Stage | None = None
        self._since = 0.0
        # By kind: seconds that its built stages were estimated at, and that they took.
        self._estimated: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._prior = PRIOR_SHARE * sum(map(_seconds, stages))

    def start(self, stage: Stage) -> None:
        """A stage begins."""
        self._to_come.remove(stage)
        self._at_work = stage
        self._number += 1
        self._since = self._now()

    def finish(self, built: bool) -> None:
        """It ended; `built`: it wasn't there already, so that its time says something."""
        stage = self._at_work
        if stage is not None and built:
            self._estimated[stage.kind] = self._estimated.get(stage.kind, 0.0) + _seconds(stage)
            self._took[stage.kind] = self._took.get(stage.kind, 0.0) + self._now() - self._since
        self._at_work = None

    def left_s(self, task_left_s: float | None = None) -> float:
        """Seconds left in all. `task_left_s`: what the bar at hand says of its own part of the stage at work."""
        left = sum(map(self._expected, self._to_come))
        if self._at_work is not None:
            # A stage may have several bars, so the bar at hand is only the least that is left.
            expected = self._expected(self._at_work) - (self._now() - self._since)
            left += max(0.0, expected, task_left_s or 0.0)
        return left

    def text(self, task_left_s: float | None = None) -> str:
        """'stage 7 of 24, about 12 min left in all'."""
        left = self.left_s(task_left_s)
        shown = f"about {show_seconds(round(left))} left in all" if left >= SHOWN_FROM_S else "nearly done"
        return f"stage {self._number} of {self._total}, {shown}"

    def _expected(self, stage: Stage) -> float:
        """Seconds of a stage to come: its estimate, times how its kind compared with its estimates so far."""
        everything = _ratio(sum(self._took.values()), sum(self._estimated.values()), self._prior, 1.0)
        of_kind = self._estimated.get(stage.kind, 0.0)
        return _seconds(stage) * _ratio(self._took.get(stage.kind, 0.0), of_kind, PRIOR_SHARE * of_kind, everything)


def _ratio(took: float, estimated: float, weight: float, prior: float) -> float:
    """What stages took as a multiple of their estimates, drawn to `prior` as by `weight` seconds more of it."""
    return (took + weight * prior) / (estimated + weight) if estimated else prior


def _seconds(stage: Stage) -> float:
    return max(LEAST_S, stage.estimate.seconds)
