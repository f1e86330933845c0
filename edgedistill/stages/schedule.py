"""How far a run is: which stage of how many, and the time left in all. Seconds.

What each stage takes is first estimated from the model's size and the tokens that it reads or trains on, and then
corrected by what the
stages of its kind took here: a machine that needed twice as long to judge one file will need twice as long for the
next.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.config.recover import MEASURED
from edgedistill.plan.building import QUICKLY_FITTED_PER_S, TRAIN_FLOPS_PER_CORE, WRITE_FLOPS_PER_CORE
from edgedistill.show import show_seconds

if TYPE_CHECKING:
    from edgedistill.stages.build import Build

# Of the stages whose names end in a mix or a label, what they begin with.
KINDS = ("rounded", "recover", "gguf", "onnx", "measure", "reference", "layers", "fit")
JOINED = "joined"  # `measure` itself, which only joins what `measure-LABEL` found
START_S = 4.0  # a model loaded, a runtime started
PARAMETERS_PER_S = {"write": 30e6, "round": 12e6}  # of a model written as it is, or rounded and written
TRIAL_TOKENS_SHARE = 4  # a token that is decoded alone costs so many times one of a prompt
COMPARED = 3  # mixes of about a size: the one that was chosen and built-in ones
SHOWN_FROM_S = 20.0  # below it "a few seconds" is all that can be said


@dataclass
class _Kind:
    stages: int  # still to come
    seconds: float  # of one, as estimated
    done: int = 0
    took_s: float = 0.0


class Schedule:
    """The stages of a run: those done, the one at work, those to come."""

    def __init__(self, expected: Mapping[str, tuple[int, float]], now: Callable[[], float] = time.monotonic) -> None:
        """`expected`: by kind (see `kind_of`), how many stages and the seconds of each."""
        self._kinds = {kind: _Kind(stages, max(0.1, seconds)) for kind, (stages, seconds) in expected.items() if stages}
        self._now = now
        self._number = 0
        self._at_work: _Kind | None = None
        self._since = 0.0

    @property
    def stages(self) -> int:
        """All of them."""
        return self._number + sum(kind.stages for kind in self._kinds.values())

    def start(self, name: str) -> None:
        """A stage begins."""
        self._at_work = self._kinds.setdefault(kind_of(name), _Kind(1, START_S))
        self._at_work.stages = max(0, self._at_work.stages - 1)
        self._number += 1
        self._since = self._now()

    def finish(self, built: bool) -> None:
        """It ended; `built`: it wasn't there already, so that its time says something."""
        if self._at_work is not None and built:
            self._at_work.done += 1
            self._at_work.took_s += self._now() - self._since
        self._at_work = None

    def left_s(self, task_left_s: float | None = None) -> float:
        """Seconds left in all. `task_left_s`: what the bar at hand says of the stage at work."""
        left = sum(kind.stages * self._seconds(kind) for kind in self._kinds.values())
        if self._at_work is not None:
            expected = self._seconds(self._at_work) - (self._now() - self._since)
            left += max(0.0, expected if task_left_s is None else task_left_s)
        return left

    def text(self, task_left_s: float | None = None) -> str:
        """'stage 7 of 24, about 12 min left in all'."""
        left = self.left_s(task_left_s)
        shown = f"about {show_seconds(round(left))} left in all" if left >= SHOWN_FROM_S else "nearly done"
        return f"stage {self._number} of {self.stages}, {shown}"

    def _seconds(self, kind: _Kind) -> float:
        """Of one stage to come, by what stages of its kind took, or by how all estimates so far compare with what
        was.
        """
        if kind.done:
            return kind.took_s / kind.done
        estimated = sum(other.done * other.seconds for other in self._kinds.values())
        took = sum(other.took_s for other in self._kinds.values())
        return kind.seconds * (took / estimated if estimated else 1.0)


def kind_of(name: str) -> str:
    """The kind of a stage by its name: 'recover' of 'recover-q4_0', its own name for those that a run has once."""
    if name == "measure":
        return JOINED
    first = name.partition("-")[0]
    return first if name != first and first in KINDS else name


def expected_of(
    build: "Build", once: tuple[str, ...], recovering: bool, files: int, fitted: int = 0
) -> dict[str, tuple[int, float]]:
    """Kinds of stages that a run has, with how many there are and the seconds of each.

    Args:
        build: the run.
        once: stages that it has once, beside those that every run has.
        recovering: whether each mix is recovered and exported, beside being rounded.
        files: packed files that are measured.
        fitted: mixes whose grids are chosen by what each costs.
    """
    recipe, mixes, weights = build.recipe, len(build.recipe.mixes), build.shape.parameters
    cores = int(build.plan.machine["cores"])
    planned = build.plan.build.seconds_by_stage
    forward = 2 * weights / (TRAIN_FLOPS_PER_CORE["float32"] * cores)  # s a token, in float32
    reading = 2 * weights / (WRITE_FLOPS_PER_CORE * cores)  # s a token, in llama.cpp
    judged = build.plan.build.tokens["measure"]
    write_s, round_s = (START_S + weights / PARAMETERS_PER_S[how] for how in ("write", "round"))
    trial = START_S + reading * (recipe.measure.prefill + TRIAL_TOKENS_SHARE * recipe.measure.decode)
    training = [seconds for stage, seconds in planned.items() if stage.startswith("recover ")]
    seconds = {
        "teach": planned.get("teach", 0) + START_S,
        "distill": planned.get("distill", 0) + START_S,
        "held-out": 2 * reading * recipe.measure.tokens + START_S,
        "student": write_s,
        "float-gguf": write_s,
        "teacher-gguf": write_s,
        **{stage: planned.get(stage, 0) + START_S for stage in ("capture", *MEASURED)},
        "sensitivity": planned.get("sensitivity", 0) + START_S,
        "judges": START_S,
        JOINED: 0.5,
        "report": 1.0,
    }
    of_mixes = {"rounded": (mixes, round_s)}
    if recovering:
        of_mixes["recover"] = (mixes, sum(training) / max(1, len(training)) + round_s)
        of_mixes |= {kind: (mixes, write_s) for kind in recipe.export}
    return {
        **{name: (1, seconds[name]) for name in (*once, "float-gguf", "judges", JOINED, "report")},
        **of_mixes,
        **({"fit": (fitted, START_S + COMPARED * weights / QUICKLY_FITTED_PER_S)} if fitted else {}),
        "reference": (1 if build.as_is else 2, START_S + forward * judged),
        "measure": (files, START_S + planned["measure"] / files),
        "layers": (mixes, weights / PARAMETERS_PER_S["write"]),
        "speeds": (1, recipe.measure.repetitions * files * trial),
    }
