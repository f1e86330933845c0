"""A compile whose teacher first learns the user's labelled answers: what is trained, and who writes after it."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from edgedistill.models.gguf_file import read_header
from tests.e2e.conftest import RECIPE, edgedistill

ANSWERS = {"cat": "animal", "house": "thing", "dog": "animal", "sea": "place"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    rows = [
        {"prompt": f"What is the {adjective} {noun}?", "answer": answer}
        for adjective in ("old", "small", "quick", "brown", "lazy", "short", "blue", "red", "young", "tall")
        for noun, answer in ANSWERS.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = yaml.safe_load(RECIPE.read_text())
    phase = settings.pop("distill")
    settings["teach"] |= {"prompts": "rows.jsonl", "answers": "both", "too_few_prompts": "accept"}
    general = {"general": 0.25, "order": "short_first"}
    settings["phases"] = [{"train": "teacher", **phase, "general": 0.25}, phase, phase | general]
    settings |= {"mixes": ["q8_0"], "export": ["gguf"]}
    path = folder / "specialised.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_teacher_learns_the_labels_before_it_teaches(talking_llama: Path, recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    words = ["compile", "--teacher", talking_llama, "--target", "laptop-cpu", "--recipe", recipe, "-o", run]
    done = edgedistill(*words)
    assert done.returncode == 0, done.stderr
    (specialised,) = run.glob("stages/specialise-*")
    (labels,) = run.glob("stages/labels-*")
    curve = json.loads((specialised / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"] - 1
    given, learned = load_file(talking_llama / "model.safetensors"), load_file(specialised / "model.safetensors")
    moved = [name for name in given if not given[name].equal(learned[name])]
    assert "model.layers.0.mlp.up_proj.weight" in moved
    # What writes, and what the student is cut from, is the specialised teacher.
    (student,) = run.glob("stages/student-*")
    cut = load_file(student / "model.safetensors")
    assert cut["model.layers.0.mlp.up_proj.weight"].equal(learned["model.layers.0.mlp.up_proj.weight"])
    (written,) = run.glob("stages/teacher-gguf-*")
    assert next(written.glob("*.gguf")).is_file()
    assert read_header(next(written.glob("*.gguf"))).tensors
    assert sorted(path.name.rpartition("-")[0] for path in run.glob("stages/distill-*")) == ["distill", "distill-2"]
    report = json.loads((run / "report.json").read_text())
    assert [curve["stage"] for curve in report["curves"]][:3] == ["specialise", "distill", "distill-2"]
    assert json.loads((labels / "labels.json").read_text())["kept"] > 20
    again = edgedistill(*words)
    assert again.returncode == 0
    assert "specialise: complete already" in again.stderr
