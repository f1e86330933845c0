"""What a loss looks at inside the teacher, in a run: whose it is, and that the teacher isn't there while a student is
trained.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from edgedistill.config import load_recipe
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import iter_shards
from tests.e2e.conftest import RECIPE
from tests.pipeline.test_on_policy import MACHINE, TARGET, finished

LOSS = [{"kl": "forward"}, {"states": "cosine", "layers": [1, 3]}, {"relations": ["qq", "vv"], "layer": 2}]


def prepared(teacher: Path, folder: Path, phases: list[dict[str, object]], teach: dict[str, object]) -> Prepared:
    settings = yaml.safe_load(RECIPE.read_text())
    small = settings.pop("distill") | {"tokens": 384}
    settings["teach"] |= teach
    settings["phases"] = [small | phase for phase in phases]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    return prepare(Job(load_recipe(str(recipe)), TARGET, folder / "run"), read_facts(teacher, str(teacher)), MACHINE)


def test_a_student_is_trained_without_its_teacher(talking_llama: Path, tmp_path: Path):
    """Once its blocks are stored, the teacher's folder may go."""
    teacher = Path(shutil.copytree(talking_llama, tmp_path / "teacher"))
    run = prepared(teacher, tmp_path, [{"loss": LOSS}], {})
    done = finished(run, QuietProgress(), "blocks")
    (stage,) = (stage for stage in run.stages if stage.name == "distill")
    kept = json.loads((done.folder("student") / "layers.json").read_text())["kept"]
    assert len(kept) == 3
    (first, *_) = iter_shards(done.folder("blocks") / "train")
    # After one of its blocks the student is compared with what its next one read; after all, with the end.
    assert set(first.signal) == {f"state-{kept[1]}", "state-4"}
    assert set(first.every) == {f"{side}-{kept[1] + 1}" for side in ("queries", "keys", "values")}
    shutil.rmtree(teacher)
    work = tmp_path / "distilled"
    work.mkdir()
    stage.work(work, done)
    assert (work / "model.safetensors").is_file()


@pytest.mark.parametrize("blocks", ["stored", "live"])
def test_a_specialised_teacher_shows_its_own_inside(talking_llama: Path, tmp_path: Path, blocks: str):
    rows = [
        {"prompt": f"What is the {word} {noun}?", "answer": "an animal"}
        for word in ("old", "red", "tall", "blue")
        for noun in ("cat", "dog", "fox", "wolf", "duck")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teach = {"prompts": str(tmp_path / "rows.jsonl"), "answers": "own", "too_few_prompts": "accept"}
    phases = [{"train": "teacher"}, {"loss": [{"kl": "forward"}, {"states": "mse", "weight": 0.1}]}]
    run = prepared(talking_llama, tmp_path, phases, teach)
    recipe = run.context.recipe
    named = recipe.teacher.model_copy(update={"blocks": blocks})
    recipe = recipe.model_copy(update={"teachers": {"teacher": named}})
    run = prepare(Job(recipe, TARGET, tmp_path / "run"), run.context.facts, MACHINE)
    done = finished(run, QuietProgress(), "distill")
    assert ("blocks" in done.results) is (blocks == "stored")
    if blocks == "live":
        return
    learned = AutoModelForCausalLM.from_pretrained(done.folder("specialise"))
    given = AutoModelForCausalLM.from_pretrained(talking_llama)
    example = next(iter_shards(done.folder("blocks") / "train"))
    with torch.no_grad():
        ours, others = (
            model(example.tokens.long()[None], output_hidden_states=True).hidden_states[-1][0][example.positions]
            for model in (learned, given)
        )
    stored = example.signal["state-4"].float()
    torch.testing.assert_close(stored, ours, rtol=2**-7, atol=1e-2)
    assert (stored - others).abs().max() > 0.1
