"""How far a run is: counts and seconds on a clock that the tests turn."""

from pathlib import Path

from edgedistill.config import load_recipe, load_target
from edgedistill.models.facts import read_facts
from edgedistill.plan import make_plan
from edgedistill.stages.schedule import Schedule, expected_of, kind_of

ROOT = Path(__file__).parents[1]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_stages_took_corrects_what_is_left():
    clock = Clock()
    schedule = Schedule({"teach": (1, 100.0), "recover": (3, 50.0), "report": (1, 10.0)}, clock)
    assert schedule.left_s() == 260
    schedule.start("teach")
    assert schedule.text() == "stage 1 of 5, about 4 min left in all"
    clock.now += 60
    assert schedule.left_s() == 40 + 160
    assert schedule.left_s(task_left_s=140.0) == 140 + 160  # the bar at hand knows better
    clock.now += 140
    schedule.finish(built=True)
    # It took twice as long as expected, and so will the others until one of their kind is done.
    assert schedule.left_s() == 2 * 160
    schedule.start("recover-q4_0")
    clock.now += 30
    schedule.finish(built=True)
    assert schedule.left_s() == 2 * 30 + 10 * (230 / 150)
    schedule.start("recover-q8_0")
    clock.now += 1
    schedule.finish(built=False)  # it was there: that says nothing of how long one takes
    assert schedule.left_s() == 30 + 10 * (230 / 150)
    schedule.start("recover-q2_k")
    schedule.finish(built=False)
    schedule.start("report")
    assert schedule.text() == "stage 5 of 5, nearly done"


def test_a_stage_that_nobody_expected_is_counted():
    schedule = Schedule({"report": (1, 1.0)}, Clock())
    schedule.start("surprise")
    assert schedule.text().startswith("stage 1 of 2, ")


def test_kinds():
    assert kind_of("recover-q4_0") == "recover"
    assert kind_of("measure-float-model") == "measure"
    assert kind_of("measure") == "joined"
    assert kind_of("float-gguf") == "float-gguf"
    assert kind_of("teacher-gguf") == "teacher-gguf"
    assert kind_of("held-out") == "held-out"


def test_more_text_files_and_mixes_are_expected_to_take_longer(tiny_llama: Path):
    class Stand:
        """What `expected_of` reads of a build."""

        def __init__(self, mixes: list[str]) -> None:
            recipe = load_recipe(ROOT / "e2e" / "compare.yaml").model_copy(update={"mixes": tuple(mixes)})
            facts = read_facts(tiny_llama, "tiny")
            self.plan = make_plan(recipe, load_target("laptop-cpu"), facts, {"cores": 2})
            self.recipe, self.shape, self.as_is = self.plan.recipe, self.plan.student, True

    def total(mixes: list[str], recovering: bool, files: int) -> float:
        once = ("student", *(("teach", "capture", "curvature") if recovering else ()))
        return Schedule(expected_of(Stand(mixes), once, recovering, files), Clock()).left_s()

    assert 0 < total(["q4_0"], False, 2) < total(["q4_0", "q8_0"], False, 3) < total(["q4_0", "q8_0"], True, 5)
