"""A task in the plan and in the keys of stages: what it changes, what it refuses, and that nothing changes without."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill.config import Recipe, load_recipe
from edgedistill.config.task import Task
from edgedistill.config.task_data import read_task
from edgedistill.errors import InputError
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.stage import Stage
from edgedistill.pipeline.task_trial import check_verifier
from edgedistill.progress import QuietProgress
from tests.pipeline.test_steps import TARGET
from tests.plan.test_plan import MACHINE, facts_of


def rows_file(folder: Path, count: int = 60, answer: str = "open") -> Path:
    rows = [{"prompt": f"please do number {n}", "answer": (answer, "close", "stop")[n % 3]} for n in range(count)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_with(file: Path | None, name: str = "chat", **settings: object) -> Recipe:
    task = None if file is None else {"file": str(file), **settings}
    recipe = load_recipe(name).to_dict() | {"task": task}
    if recipe["student"]["kind"] == "auto":
        recipe["student"] = {"kind": "depth"}
    return Recipe.model_validate(recipe)


def planned(recipe: Recipe, comparing: bool = False, recovering: bool = True) -> Prepared:
    return prepare(Job(recipe, TARGET, Path("out"), comparing, recovering), facts_of(), MACHINE)


def by_name(prepared: Prepared) -> dict[str, Stage]:
    return {stage.name: stage for stage in prepared.stages}


def test_it_reaches_what_is_taught_and_what_is_measured_and_nothing_else(tmp_path: Path):
    without, with_task = by_name(planned(recipe_with(None))), by_name(planned(recipe_with(rows_file(tmp_path))))
    assert list(without) == list(with_task)
    changed = [name for name, stage in without.items() if dict(stage.settings) != dict(with_task[name].settings)]
    # What the task's own answers decide of a training is which of its weights are the best.
    trained = ["distill", "recover-q4_0", "recover-q8_0"]
    assert changed == ["teach", *trained, *(name for name in without if name.startswith("measure-")), "measure"]
    assert all(with_task[name].settings["decides"] == ["written"] for name in trained)
    reads = [name for name, stage in with_task.items() if "task" in stage.outside]
    assert reads == [name for name in changed if name not in trained]
    assert not any("task" in stage.outside or "task" in stage.settings for stage in without.values())


def test_a_key_has_what_grading_depends_on(tmp_path: Path):
    file, program = rows_file(tmp_path), tmp_path / "check.py"
    program.write_text("")
    base = recipe_with(file, kind="text")

    def row_of(recipe: Recipe) -> Stage:
        return by_name(planned(recipe))["measure-float-student"]

    for change in (
        {"items": 5},
        {"max_answer_tokens": 9},
        {"test": 0.3},
        {"kind": "classify"},
        {"verify": [sys.executable, "-c", "0"]},
    ):
        settings = {"kind": "text"} | change
        assert row_of(recipe_with(file, **settings)).settings != row_of(base).settings, change
    verified = row_of(recipe_with(file, kind="text", verify=[sys.executable, str(program)]))
    assert [outside.place for name, outside in verified.outside.items() if name.startswith("verify")] == [
        Path(sys.executable),
        program,
    ]
    assert str(tmp_path) not in json.dumps(verified.settings["task"]), "another folder gives the same key"


def test_the_plan_says_what_the_task_is_and_counts_its_answers(tmp_path: Path):
    file = rows_file(tmp_path)
    plan = planned(recipe_with(file, items=9)).plan
    assert any(note.startswith("task rows (classify, 3 labels): ") for note in plan.notes)
    assert any("of which every file is asked 9" in note for note in plan.notes)
    row = "measure-float-student"
    without = planned(recipe_with(None)).plan.build.stages[row]
    few, many = (planned(recipe_with(file, items=items)).plan.build.stages[row] for items in (2, 9))
    assert without.seconds < few.seconds < many.seconds
    assert without.tokens < few.tokens < many.tokens


def test_a_comparison_asks_it_too(tmp_path: Path):
    stages = by_name(planned(recipe_with(rows_file(tmp_path), "compare"), comparing=True, recovering=False))
    assert "task" in stages["measure-float-model"].settings
    assert "teach" not in stages


def test_an_answer_that_is_too_long_is_counted_by_the_models_own_tokenizer(tiny_llama: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    answer = "The quick brown fox jumps over the lazy dog."
    tokens = len(AutoTokenizer.from_pretrained(tiny_llama)(answer, add_special_tokens=False)["input_ids"])
    assert tokens < len(answer)
    facts, file = read_facts(tiny_llama, "tiny"), rows_file(tmp_path, answer=answer)

    def plan_with(most: int) -> Prepared:
        recipe = recipe_with(file, "tiny", max_answer_tokens=most)
        recipe = recipe.model_copy(update={"teach": recipe.teach.model_copy(update={"max_answer_tokens": 8})})
        return prepare(Job(recipe, TARGET, Path("out")), facts, MACHINE)

    plan_with(tokens + 1)
    with pytest.raises(InputError) as caught:
        plan_with(tokens)
    said = str(caught.value)
    assert (
        f"rows.jsonl:1: the answer has {tokens + 1} tokens with its end, and task.max_answer_tokens is {tokens}" in said
    )
    assert f"Set it to at least {tokens + 1}, the most of all 20 longer ones" in said
    with pytest.raises(InputError, match=r"answer_tokens is 256; the model tiny-llama reads at most 256 tokens"):
        plan_with(256)


def test_own_answers_need_a_chat_template(tmp_path: Path):
    recipe = recipe_with(rows_file(tmp_path), "recover")
    recipe = recipe.model_copy(update={"teach": recipe.teach.model_copy(update={"answers": "own", "style": "auto"})})
    job = Job(recipe, TARGET, Path("out"))
    prepare(job, facts_of(chat=True), MACHINE)
    with pytest.raises(InputError, match="in chats alone; the teacher SmolLM2 has no chat template"):
        prepare(job, facts_of(chat=False), MACHINE)


def test_a_verifier_is_tried_on_right_answers_before_anything_runs(tmp_path: Path):
    program = tmp_path / "check.py"
    program.write_text("import json, sys\nsys.exit(json.load(sys.stdin)['answer'] == 'stop')\n")
    task = Task(file=str(rows_file(tmp_path)), kind="text", verify=(sys.executable, str(program)))
    data = read_task(task)
    good = replace(data, test=tuple(row for row in data.test if row.answer != "stop"))
    check_verifier(task, good, QuietProgress())
    bad = replace(data, test=tuple(row for row in data.test if row.answer == "stop"))
    with pytest.raises(InputError, match=r"ended with 1 on the right answer of .*rows\.jsonl:\d+; it must exit with 0"):
        check_verifier(task, bad, QuietProgress())
    check_verifier(Task(file=task.file), bad, QuietProgress())


def test_the_plan_counts_no_more_text_than_the_rows_give(tmp_path: Path):
    """Answers at 3 characters a token, and the token that ends each; the recipe's budget is far above that."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"Do {number} of them, please", "answer": {"intent": "do", "number": number}} for number in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_with(path, test=0.5)
    own = recipe.model_copy(update={"teach": recipe.teach.model_copy(update={"answers": "own", "text_tokens": 0})})
    prepared = planned(own)
    assert prepared.context.task is not None
    learned = prepared.context.task.learn
    expected = sum(1 + len(row.answer) // 3 for row in learned)
    assert prepared.plan.build.stages["teach"].tokens == expected < recipe.teach.tokens / 10
    both = recipe.model_copy(update={"teach": own.teach.model_copy(update={"answers": "both"})})
    assert planned(both).plan.build.stages["teach"].tokens == 2 * expected


def test_the_plan_says_whether_the_rows_answers_are_learned(tmp_path: Path):
    file = rows_file(tmp_path)
    told = "the rows' own answers only judge (teach.answers is teacher); the recipes classify and extract learn them"
    assert any(told in note for note in planned(recipe_with(file)).plan.notes)
    assert not any(told in note for note in planned(recipe_with(file, "classify")).plan.notes)
    compared = planned(recipe_with(file, "compare"), comparing=True, recovering=False)
    assert not any(told in note for note in compared.plan.notes)
