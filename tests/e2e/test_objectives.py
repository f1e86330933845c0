"""A compile whose student is compared inside the teacher too: stored, and beside it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import RECIPE, edgedistill

LOSS = [
    {"kl": "forward", "weight": 5.0, "temperature": 2.0},
    {"text": True, "weight": 2.0},
    {"states": "cosine"},
    {"states": "mse", "layers": [1, 2], "weight": 0.01},
    {"relations": ["qq", "kk", "vv"], "weight": 0.1},
]


@pytest.mark.parametrize("blocks", ["stored", pytest.param("live", marks=pytest.mark.slow)])
def test_a_student_learns_what_is_inside_its_teacher(talking_llama: Path, tmp_path: Path, blocks: str):
    teacher = Path(shutil.copytree(talking_llama, tmp_path / "teacher"))
    settings = yaml.safe_load(RECIPE.read_text())
    settings["teacher"]["blocks"] = blocks
    settings["distill"]["loss"] = LOSS
    settings |= {"mixes": ["q8_0"], "export": ["gguf"]}
    recipe, run = tmp_path / "inside.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(settings))
    words = ["compile", "--teacher", teacher, "--target", "laptop-cpu", "--recipe", recipe, "-o", run]
    done = edgedistill(*words)
    assert done.returncode == 0, done.stderr
    (distilled,) = run.glob("stages/distill-*")
    curve = json.loads((distilled / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"]
    stored = list(run.glob("stages/blocks-*/train/*.safetensors"))
    assert bool(stored) is (blocks == "stored")
    again = edgedistill(*words)
    assert again.returncode == 0, again.stderr
    assert "distill: complete already" in again.stderr


def test_the_named_loss_is_planned(talking_llama: Path, tmp_path: Path):
    settings = yaml.safe_load(RECIPE.read_text())
    settings["distill"]["loss"] = "distilbert"
    recipe = tmp_path / "trio.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    planned = edgedistill("plan", talking_llama, "--target", "laptop-cpu", "--recipe", recipe, "--json")
    assert planned.returncode == 0, planned.stderr
    seconds = json.loads(planned.stdout)["build"]["seconds_by_stage"]
    assert list(seconds).index("student") < list(seconds).index("blocks") < list(seconds).index("distill")
    settings["distill"]["loss"] = [{"states": "mse", "layers": [9]}]
    recipe.write_text(yaml.safe_dump(settings))
    refused = edgedistill("plan", talking_llama, "--target", "laptop-cpu", "--recipe", recipe)
    assert refused.returncode == 2
    assert "distill.loss.0.layers has 9, and the student has 3 layers. Choose at most that." in refused.stderr
