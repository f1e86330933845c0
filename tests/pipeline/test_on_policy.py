"""On-policy rounds in a run: the stages up to the student's, whole and killed, end with the same bytes."""

import json
from pathlib import Path

import pytest
import yaml

from edgedistill.config import load_recipe, load_target
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.runner import run_stages
from edgedistill.pipeline.stage import Finished
from edgedistill.plan import BuildMachine
from edgedistill.progress import QuietProgress
from edgedistill.store.run import RunFolder
from tests.e2e.conftest import RECIPE

TARGET = load_target("laptop-cpu")
MACHINE = BuildMachine(1, 16 * 2**30, 100 * 2**30)


class Counting(QuietProgress):
    """Remembers notes, and ends the run after so many steps of a training."""

    def __init__(self, steps: int | None = None) -> None:
        self.notes: list[str] = []
        self.left, self.title = steps, ""

    def start(self, title: str, total: float, unit: str) -> None:
        self.title = title

    def advance(self, amount: float, **figures: float) -> None:
        if self.left is not None and self.title.startswith("distill") and amount:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def prepared(teacher: Path, out: Path, folder: Path, **phase: object) -> Prepared:
    settings = yaml.safe_load(RECIPE.read_text())
    settings["distill"] |= {
        "tokens": 768,
        "on_policy": {"every": 2, "tokens": 150},
        "checkpoint_seconds": 1e-6,
        **phase,
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    return prepare(Job(load_recipe(str(recipe)), TARGET, out), read_facts(teacher, str(teacher)), MACHINE)


def run(prepared: Prepared, progress: QuietProgress) -> Path:
    """The folder of the student after its phase."""
    stages = list(prepared.stages)
    stages = stages[: [stage.name for stage in stages].index("distill") + 1]
    folder = RunFolder.open(prepared.context.out, prepared.context.identity)
    done = Finished(progress, prepared.plan)
    with folder.lock():
        run_stages(folder, stages, done)
    return done.folder("distill")


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_phase_ends_with_the_same_bytes(talking_llama: Path, tmp_path: Path, after: int):
    progress = Counting()
    whole = run(prepared(talking_llama, tmp_path / "whole", tmp_path), progress)
    assert sum(note.startswith("the student wrote") for note in progress.notes) == 3
    curve = json.loads((whole / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"]
    assert not (whole / "training").exists()
    killed, second = prepared(talking_llama, tmp_path / "killed", tmp_path), Counting()
    with pytest.raises(KeyboardInterrupt):
        run(killed, Counting(after))
    ended = run(killed, second)
    assert sum(note.startswith("the student wrote") for note in second.notes) == 3 - 1 - after // 2
    for name in ("model.safetensors", "curve.json"):
        assert (whole / name).read_bytes() == (ended / name).read_bytes(), name


def test_the_plan_counts_the_rounds(talking_llama: Path, tmp_path: Path):
    rounds = prepared(talking_llama, tmp_path / "a", tmp_path).plan.build.stages["distill"]
    plain = prepared(talking_llama, tmp_path / "b", tmp_path, on_policy=None).plan.build.stages["distill"]
    assert rounds.tokens == plain.tokens + 3 * 150
    assert rounds.seconds > plain.seconds
    assert rounds.ram_bytes > plain.ram_bytes


def test_states_of_text_that_is_yet_to_be_written_are_live(talking_llama: Path, tmp_path: Path):
    loss = [{"kl": "reverse"}, {"states": "cosine"}]
    stages = {stage.name: stage for stage in prepared(talking_llama, tmp_path / "a", tmp_path, loss=loss).stages}
    assert "blocks" not in stages
    assert set(stages["distill"].outside) == {"teacher"}
    assert "teacher-gguf" in stages["distill"].inputs
    assert (run(prepared(talking_llama, tmp_path / "a", tmp_path, loss=loss), QuietProgress()) / "curve.json").is_file()
