"""On-policy rounds in a run: the stages up to the student's, whole and killed, end with the same bytes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from edgedistill.config import load_recipe, load_target
from edgedistill.mixes import assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.pipeline.on_policy import OnPolicyRounds
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.runner import run_stages
from edgedistill.pipeline.stage import Finished
from edgedistill.plan import BuildMachine
from edgedistill.progress import QuietProgress
from edgedistill.quant.rounded import round_weights
from edgedistill.signals.shards import iter_shards
from edgedistill.store.run import RunFolder
from edgedistill.teach.own_text import write_own_text
from edgedistill.teach.writers import LlamaWriter
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
        if self.left is not None and self.title in ("distill", "recover q4_0") and amount:
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


def finished(prepared: Prepared, progress: QuietProgress, last: str) -> Finished:
    """All stages up to one."""
    stages = list(prepared.stages)
    stages = stages[: [stage.name for stage in stages].index(last) + 1]
    folder = RunFolder.open(prepared.context.out, prepared.context.identity)
    done = Finished(progress, prepared.plan)
    with folder.lock():
        run_stages(folder, stages, done)
    return done


def run(prepared: Prepared, progress: QuietProgress, last: str = "distill") -> Path:
    """The folder of a stage, after all before it."""
    return finished(prepared, progress, last).folder(last)


def on_grid(teacher: Path, out: Path, folder: Path) -> Prepared:
    """A recovery of the model as it is, whose packed file writes half of the text."""
    settings = yaml.safe_load(RECIPE.read_text())
    settings |= {"student": {"kind": "same"}, "mixes": ["q4_0"], "export": ["gguf"]}
    settings["recover"] |= {"tokens": 768, "fit": "importance", "on_policy": {"every": 3, "tokens": 150}}
    settings["recover"] |= {"train": ["weights", "scales"], "checkpoint_seconds": 1e-6, "patience": 0.9}
    recipe = folder / "grid.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    return prepare(Job(load_recipe(str(recipe)), TARGET, out), read_facts(teacher, str(teacher)), MACHINE)


@pytest.fixture(scope="module")
def taught(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the training text and the initial student. Copy it."""
    folder = tmp_path_factory.mktemp("taught")
    finished(prepared(talking_llama, folder / "run", folder), QuietProgress(), "student")
    return folder / "run"


@pytest.fixture(scope="module")
def rounded(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder up to the file of plain rounding. Copy it."""
    folder = tmp_path_factory.mktemp("rounded")
    finished(on_grid(talking_llama, folder / "run", folder), QuietProgress(), "rounded-q4_0")
    return folder / "run"


@pytest.fixture(scope="module")
def phase(talking_llama: Path, taught: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counting]:
    """A phase that wasn't killed, and its notes."""
    progress, folder = Counting(), tmp_path_factory.mktemp("phase")
    return run(prepared(talking_llama, copy(taught, folder), folder), progress), progress


@pytest.fixture(scope="module")
def recovery(talking_llama: Path, rounded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counting]:
    """A recovery that wasn't killed, and its notes."""
    progress, folder = Counting(), tmp_path_factory.mktemp("recovery")
    return run(on_grid(talking_llama, copy(rounded, folder), folder), progress, "recover-q4_0"), progress


def copy(run_folder: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run_folder, folder / "run"))


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_phase_ends_with_the_same_bytes(
    talking_llama: Path, taught: Path, phase: tuple[Path, Counting], tmp_path: Path, after: int
):
    whole, progress = phase
    assert sum(note.startswith("the model in training wrote") for note in progress.notes) == 3
    curve = json.loads((whole / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"]
    assert not (whole / "training").exists()
    killed, second = prepared(talking_llama, copy(taught, tmp_path), tmp_path), Counting()
    with pytest.raises(KeyboardInterrupt):
        run(killed, Counting(after))
    ended = run(killed, second)
    assert sum(note.startswith("the model in training wrote") for note in second.notes) == 3 - 1 - after // 2
    for name in ("model.safetensors", "curve.json"):
        assert (whole / name).read_bytes() == (ended / name).read_bytes(), name


def test_the_plan_counts_the_rounds(talking_llama: Path, tmp_path: Path):
    rounds = prepared(talking_llama, tmp_path / "a", tmp_path).plan.build.stages["distill"]
    plain = prepared(talking_llama, tmp_path / "b", tmp_path, on_policy=None).plan.build.stages["distill"]
    assert rounds.tokens == plain.tokens + 3 * 150
    assert rounds.seconds > plain.seconds
    assert rounds.ram_bytes > plain.ram_bytes


def test_states_of_text_that_is_yet_to_be_written_are_live(talking_llama: Path, taught: Path, tmp_path: Path):
    loss, out = [{"kl": "reverse"}, {"states": "cosine"}], copy(taught, tmp_path)
    stages = {stage.name: stage for stage in prepared(talking_llama, out, tmp_path, loss=loss).stages}
    assert "blocks" not in stages
    assert set(stages["distill"].outside) == {"teacher"}
    assert "teacher-gguf" in stages["distill"].inputs
    assert (run(prepared(talking_llama, out, tmp_path, loss=loss), QuietProgress()) / "curve.json").is_file()


@pytest.mark.parametrize("after", [2, 4])
def test_a_killed_recovery_on_its_own_text_ends_with_the_same_bytes(
    talking_llama: Path, rounded: Path, recovery: tuple[Path, Counting], tmp_path: Path, after: int
):
    (whole, progress), second = recovery, Counting()
    assert sum(note.startswith("the model in training wrote") for note in progress.notes) == 2
    curve = json.loads((whole / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["rounded"]["kl"]
    assert not (whole / "training").exists()
    killed = on_grid(talking_llama, copy(rounded, tmp_path), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(killed, Counting(after), "recover-q4_0")
    ended = run(killed, second, "recover-q4_0")
    assert sum(note.startswith("the model in training wrote") for note in second.notes) == 1 - after // 3
    for name in ("grid.safetensors", "curve.json"):
        assert (whole / name).read_bytes() == (ended / name).read_bytes(), name


def test_what_learns_on_the_grid_is_what_its_file_writes(talking_llama: Path, rounded: Path, tmp_path: Path):
    """The text of a rounded checkpoint is llama.cpp's with the file of plain rounding; its signal is transformers'."""
    prepared = on_grid(talking_llama, copy(rounded, tmp_path), tmp_path)
    done = finished(prepared, QuietProgress(), "rounded-q4_0")
    student, part = done.folder("student"), prepared.context.recipe.recover
    rounds = OnPolicyRounds(prepared.context, part.on_policy, part.compares, part.seq_len, part.step_tokens)
    training = list(iter_shards(done.folder("capture") / "train"))
    author = rounds.on_grid(student, training, tmp_path, done)
    assert author is not None
    formats = assign_formats(prepared.context.shape, prepared.context.mixes[0])
    text = author(round_weights(load_model(student).state_dict(), formats, "q4_0"), 5)
    answering = rounds._answering(training, student)
    with LlamaWriter(done.folder("rounded-q4_0") / "model.gguf", 1, answering.room, answering.parallel) as file:
        expected = write_own_text(file, answering, 5)
    assert [example.tokens.tolist() for example in text] == [example.cut(64).tokens.tolist() for example in expected]
    model = AutoModelForCausalLM.from_pretrained(student)
    for example in text[:4]:
        with torch.no_grad():
            hidden = model.model(example.tokens.long()[None]).last_hidden_state[0][example.positions]
        torch.testing.assert_close(example.signal["hidden"].float(), hidden, rtol=2**-7, atol=1e-3)
