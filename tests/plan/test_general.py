"""A share of general text in a phase, where the recipe's text will have none, or nothing else."""

from typing import Any

import pytest

from edgedistill.config import Recipe, load_recipe, load_target
from edgedistill.errors import InputError
from edgedistill.pipeline import make_plan
from tests.plan.test_plan import MACHINE, facts_of

TARGET = load_target("laptop-cpu")


def recipe(phases: list[dict[str, Any]], **teach: Any) -> Recipe:
    content = load_recipe("chat").to_dict()
    changes = {"student": {"kind": "depth"}, "phases": phases, "teach": content["teach"] | teach}
    return Recipe.model_validate(content | changes)


@pytest.mark.parametrize(
    ("teach", "missing"),
    [
        ({"text_tokens": 0, "free_tokens": 0}, "no prose nor free text; raise teach.text_tokens or teach.free_tokens"),
        ({"tokens": 0}, "no text that the teacher writes in answer; raise teach.tokens"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(teach: dict[str, Any], missing: str):
    with pytest.raises(InputError, match=f"phases.1.general is 0.25, and the training text has {missing}"):
        make_plan(recipe([{}, {"general": 0.25}], **teach), TARGET, facts_of(), MACHINE)
    make_plan(recipe([{}, {}], **teach), TARGET, facts_of(), MACHINE)


def test_free_text_is_general_text():
    make_plan(recipe([{"general": 0.25}], text_tokens=0, free_tokens=9_000), TARGET, facts_of(), MACHINE)


def test_a_teacher_that_learns_labels_has_no_free_text_yet(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {n}", "answer": "{n % 3}"}}\n' for n in range(60)))
    phases = [{"train": "teacher", "general": 0.25}, {}]
    given = recipe(phases, text_tokens=0, free_tokens=9_000, prompts=str(rows), answers="own")
    with pytest.raises(InputError, match="phases.0.general is 0.25, and the training text has no prose; raise"):
        make_plan(given, TARGET, facts_of(), MACHINE)
