"""A compile whose teacher first learns the user's labelled answers: what is trained, and who writes after it."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from edgedistill.data.trace import iter_traces
from edgedistill.models.gguf_file import read_header
from edgedistill.signals.shards import iter_shards
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


def test_it_makes_up_more_of_the_task(talking_llama: Path, recipe: Path, tmp_path: Path):
    """None of its questions is one of the rows', and every answer is one of the labels."""
    settings = yaml.safe_load(recipe.read_text())
    rows = recipe.with_name(settings["teach"].pop("prompts"))
    settings["task"] = {"file": str(rows), "max_answer_tokens": 12}
    settings["teach"] |= {"answers": "own", "new_tokens": 60}
    settings["phases"] = [{**settings["phases"][0], "tokens": 8192, "general": None}, settings["phases"][1]]
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    words = ["compile", "--teacher", talking_llama, "--target", "laptop-cpu", "--recipe", path, "-o", run]
    done = edgedistill(*words)
    assert done.returncode == 0, done.stderr
    (taught,) = run.glob("stages/teach-*")
    counts = json.loads((taught / "teach.json").read_text())
    assert counts["split_tokens"]["new-"]["train"] >= 60
    asked = {json.loads(line)["prompt"] for line in rows.read_text().splitlines()}
    traces = list(iter_traces(taught, "new-traces-*.jsonl"))
    assert len(traces) > 10
    for trace in traces:
        assert trace.turns[-2].text not in asked
        assert trace.turns[-1].text.strip().casefold() in ANSWERS.values()
    examples = list(iter_shards(taught / "new-train"))
    assert sum(example.kept for example in examples) == counts["split_tokens"]["new-"]["train"]
    assert all(len(example.signal["ids"]) == example.kept for example in examples)
