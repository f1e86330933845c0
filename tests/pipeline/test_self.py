"""Self-distillation: a student that begins as its teacher and learns from hot samples of it."""

import json
from pathlib import Path

import yaml
from safetensors.torch import load_file

from edgedistill.config import load_recipe
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job, prepare
from tests.e2e.conftest import RECIPE
from tests.pipeline.test_on_policy import MACHINE, TARGET, Counting, finished


def test_a_model_learns_from_its_own_samples(talking_llama: Path, tmp_path: Path):
    """What the recipe says, with the tests' budgets and more of the tail cut off: no layer goes, nothing is scored, the
    samples get likelier.
    """
    recipe, small = load_recipe("self").to_dict(), yaml.safe_load(RECIPE.read_text())
    recipe["teach"] |= small["teach"] | {"text_tokens": 0, "top_p": 0.5}
    (phase,) = recipe["phases"]
    budgets = {key: small["distill"][key] for key in ("tokens", "seq_len", "batch_tokens", "compute")}
    recipe["phases"] = [phase | budgets | {"learning_rate": 3e-4}]
    for part in ("recover", "measure"):
        recipe[part] |= small[part]
    path = tmp_path / "self.yaml"
    path.write_text(yaml.safe_dump(recipe))
    job = Job(load_recipe(str(path)), TARGET, tmp_path / "run")
    prepared = prepare(job, read_facts(talking_llama, str(talking_llama)), MACHINE)
    assert prepared.context.recipe.top_k == 0
    done = finished(prepared, Counting(), "distill")
    given, begun, learned = (
        load_file(folder / "model.safetensors")
        for folder in (talking_llama, done.folder("student"), done.folder("distill"))
    )
    assert begun.keys() == given.keys()
    assert all(begun[name].equal(given[name]) for name in given)
    assert not learned["model.layers.0.mlp.up_proj.weight"].equal(given["model.layers.0.mlp.up_proj.weight"])
    curve = json.loads((done.folder("distill") / "curve.json").read_text())
    assert curve["verdict"].startswith("cross-entropy")
    assert curve["best"]["kl"] < curve["start"]["kl"]
