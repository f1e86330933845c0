"""Whole compiles of what a recipe may begin with: an adapter's folder, a GGUF file, a run, one cut after another; with
adapters, losses and on-policy rounds together. Each is verified, and a second run computes nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgedistill.models.hf_folder import read_shape
from tests.e2e.conftest import RECIPE, edgedistill
from tests.models.test_adapter_folder import PEFTS, save_adapter
from tests.tiny import make_tiny_llama

QUICK = {
    "mixes": ["q4_0"],
    "rival": False,
    "measure": {
        "tokens": 64,
        "prompts": ["The old cat"],
        "prefill": 16,
        "decode": 8,
        "repetitions": 1,
        "threads": 1,
        "tasks": [],
        "refusal_items": 0,
    },
}
TRAINING = {"tokens": 384, "seq_len": 64, "batch_tokens": 128, "learning_rate": 1.0e-3, "compute": "float32"}


def compiled(teacher: Path, folder: Path, recover: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The folder of a run that was verified, and found complete when it was asked for again."""
    recipe = yaml.safe_load(RECIPE.read_text()) | QUICK | changes
    recipe["recover"] = TRAINING | {"fit": "ggml"} | (recover or {})
    recipe.pop("distill") if "phases" in changes else recipe.update(distill=TRAINING)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / "run"
    words = ["compile", teacher, "-t", "laptop-cpu", "-r", folder / "recipe.yaml", "-o", out]
    done = edgedistill(*words)
    assert done.returncode == 0, done.stderr
    proven = edgedistill("verify", out, "--json")
    assert proven.returncode == 0, proven.stderr
    files = json.loads(proven.stdout)["files"]
    assert len(files) == 2
    assert all(file["equal"] for file in files)
    return out


def stage(run: Path, name: str) -> Path:
    (folder,) = run.glob(f"stages/{name}-????????????")
    return folder


@PEFTS
@pytest.mark.slow
def test_an_adapters_folder_teaches_a_student_that_adapters_train(talking_llama: Path, tmp_path: Path):
    adapter = save_adapter(talking_llama, tmp_path / "mine", r=2)
    phases = [
        TRAINING | {"adapter": {"kind": "lora", "rank": 4}, "loss": "distilbert"},
        TRAINING | {"adapter": {"kind": "qlora", "rank": 4}},
    ]
    student = {"kind": "depth+width", "layers": 3, "ffn": 64, "kv_heads": 1}
    run = compiled(adapter, tmp_path / "a", student=student, phases=phases, vocabulary=416)
    shape = read_shape(stage(run, "vocabulary"))
    assert (shape.layers, shape.ffn, shape.kv_heads, shape.vocab) == (3, 64, 1, 416)
    curves = {curve["stage"]: curve for curve in json.loads((run / "report.json").read_text())["curves"]}
    assert list(curves) == ["distill", "distill-2", "recover q4_0"]


@pytest.mark.slow
def test_a_sibling_in_a_gguf_file_learns_from_what_it_writes(talking_llama: Path, tmp_path: Path):
    """In float, and its packed file while that is trained on its grid."""
    little = make_tiny_llama(tmp_path / "little", layers=2, seed=4)
    exported = edgedistill("export", little, "--mix", "q8_0", "--format", "gguf", "-o", tmp_path / "little-gguf")
    assert exported.returncode == 0, exported.stderr
    (file,) = (tmp_path / "little-gguf").glob("*.gguf")
    phases = [TRAINING | {"loss": [{"kl": "reverse"}], "on_policy": {"every": 2, "tokens": 100}}]
    student = {"kind": "sibling", "model": str(file)}
    recover = {"on_policy": {"every": 3, "tokens": 100}}
    run = compiled(talking_llama, tmp_path / "a", student=student, phases=phases, recover=recover)
    assert read_shape(stage(run, "distill")).layers == 2


@pytest.mark.slow
def test_students_in_stages(talking_llama: Path, tmp_path: Path):
    """4 layers to 3 to 2, then narrower and with fewer tokens, and the last run's student once more."""
    first = compiled(talking_llama, tmp_path / "1", student={"kind": "depth", "layers": 3})
    second = compiled(talking_llama, tmp_path / "2", student={"kind": "depth", "layers": 2, "of": str(first)})
    assert read_shape(stage(second, "distill")).layers == 2
    last = compiled(talking_llama, tmp_path / "3", student={"kind": "run", "path": str(second)})
    lineage = json.loads((stage(last, "student") / "student.json").read_text())["lineage"]
    assert len(lineage) >= 3
    inside = [{"kl": "forward"}, {"states": "mse"}, {"relations": ["qq", "vv"], "weight": 0.1}]
    student = {"kind": "width", "share": 0.6}
    narrow = compiled(
        talking_llama, tmp_path / "4", student=student, phases=[TRAINING | {"loss": inside}], vocabulary=416
    )
    assert read_shape(stage(narrow, "vocabulary")).vocab == 416
