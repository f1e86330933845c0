"""Labelled answers as the text of a teacher's phases: what is kept, where it goes, what counts."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from edgedistill.config.prompts import read_prompts
from edgedistill.config.recipe import Recipe
from edgedistill.data.trace import Holdout, iter_traces, prompt_id_of, split_of
from edgedistill.errors import RunError
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import iter_shards
from edgedistill.teach.labels import write_labels
from edgedistill.teach.training_text import holdout_of
from tests.tiny import make_tiny_llama

QUESTIONS = [f"Is {number} a small number?" for number in range(60)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("teacher"))


def recipe_with(rows: list[dict[str, object]], folder: Path, **teach: object) -> Recipe:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompts": str(path), "answers": "both", "tokens": 200, "text_tokens": 0, "holdout": 0.4} | teach
    recipe = {"schema": "edgedistill.recipe/1", "name": "labels", "teach": settings}
    recipe["phases"] = [{"train": "teacher", "seq_len": 64, "batch_tokens": 64}, {"seq_len": 64, "batch_tokens": 64}]
    return Recipe.model_validate(recipe).decided(has_chat_template=True)


def labelled(teacher: Path, recipe: Recipe, folder: Path) -> dict[str, object]:
    work = folder / "labels"
    work.mkdir()
    write_labels(teacher, "tiny", read_prompts(Path(recipe.teach.prompts)), recipe, work, QuietProgress())
    counts: dict[str, object] = json.loads((work / "labels.json").read_text())
    return counts


def test_answers_count_and_prompts_do_not(teacher: Path, tmp_path: Path):
    rows = [{"prompt": question, "answer": "yes" if n < 30 else "no"} for n, question in enumerate(QUESTIONS)]
    recipe = recipe_with(rows, tmp_path)
    counts = labelled(teacher, recipe, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    answers = set()
    for example in iter_shards(tmp_path / "labels" / "train"):
        whole = tokenizer.decode(example.tokens)
        assert whole.startswith("<|im_start|>user\nIs ")
        counted = example.tokens[example.positions + 1]
        answers.add(tokenizer.decode(counted))
        asked = tokenizer.decode(example.tokens[: int(example.positions[0]) + 1])
        assert asked.endswith("<|im_start|>assistant\n")
    assert answers == {"yes<|im_end|>", "no<|im_end|>"}
    assert counts["kept"] == 60


def test_prompts_that_judge_are_left_to_the_judge(teacher: Path, tmp_path: Path):
    """Each prompt lies on the side on which the teach stage has it."""
    recipe = recipe_with([{"prompt": question, "answer": "yes"} for question in QUESTIONS], tmp_path)
    labelled(teacher, recipe, tmp_path)
    ids = [prompt_id_of(question) for question in QUESTIONS]
    holdout: Holdout = holdout_of(recipe, recipe.teach.tokens).covering(ids)
    traces = {trace.id: trace.prompt_id for trace in iter_traces(tmp_path / "labels", "traces-*.jsonl")}
    for split in ("train", "validation", "judge"):
        sided = {traces[example.trace_id] for example in iter_shards(tmp_path / "labels" / split)}
        assert sided == {prompt_id for prompt_id in ids if split_of(prompt_id, holdout) == split}


def test_what_cannot_be_learned_is_counted(teacher: Path, tmp_path: Path):
    rows: list[dict[str, object]] = [{"prompt": question, "answer": "yes"} for question in QUESTIONS]
    rows += [{"prompt": QUESTIONS[0], "answer": "yes"}, {"prompt": "Tell it all.", "answer": "word " * 200}]
    rows += [{"prompt": "And this?"}]
    counts = labelled(teacher, recipe_with(rows, tmp_path, max_answer_tokens=40), tmp_path)
    assert counts["dropped"] == {"cut off": 1, "duplicate": 1}
    assert counts["asked"] == 62


def test_a_file_without_answers_that_fit_is_refused(teacher: Path, tmp_path: Path):
    rows = [{"prompt": question, "answer": "word " * 200} for question in QUESTIONS]
    with pytest.raises(RunError, match=r"0 texts are too few to validate and judge on \(60 cut off\)"):
        labelled(teacher, recipe_with(rows, tmp_path, max_answer_tokens=40), tmp_path)
