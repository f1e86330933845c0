"""Questions like a task's that the specialised teacher makes up: what it learns for them, what is kept of them."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from edgedistill.config.recipe import Recipe
from edgedistill.config.task import Task
from edgedistill.config.task_data import TaskData, read_task
from edgedistill.data.trace import iter_traces
from edgedistill.pipeline.asked import teaching_prompts
from edgedistill.progress import QuietProgress
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.signals.shards import iter_shards
from edgedistill.teach.kept import ASKED
from edgedistill.teach.labels import QUESTION_WEIGHT, write_labels
from edgedistill.teach.training_text import TeachInputs, teach
from edgedistill.teach.writers import Continuation

SYSTEM = "Say what it is."
KINDS = {"cat": "animal", "house": "thing", "dog": "animal", "sea": "place"}
ADJECTIVES = ("old", "small", "quick", "brown", "lazy", "short", "blue", "red", "young", "tall")


def recipe_of(folder: Path, **teach_settings: object) -> Recipe:
    rows = [
        {"system": SYSTEM, "prompt": f"What is the {word} {noun}?", "answer": kind}
        for word in ADJECTIVES
        for noun, kind in KINDS.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "schema": "edgedistill.recipe/1",
        "name": "more",
        "task": {"file": str(folder / "rows.jsonl")},
        "teach": {
            "answers": "own",
            "tokens": 200,
            "new_tokens": 30,
            "text_tokens": 0,
            "holdout": 0.4,
            **teach_settings,
        },
        "phases": [{"train": "teacher", "seq_len": 64, "batch_tokens": 64}, {"seq_len": 64, "batch_tokens": 64}],
    }
    return Recipe.model_validate(recipe).decided(has_chat_template=True)


def task_of(recipe: Recipe) -> TaskData:
    assert recipe.task is not None
    return read_task(recipe.task)


def test_questions_are_learned_too_and_count_less(tiny_llama: Path, tmp_path: Path):
    """In what is trained on: the user's words and what ends them. Validation looks at the answers alone."""
    recipe = recipe_of(tmp_path)
    prompts = teaching_prompts(task_of(recipe), recipe.teach)
    assert prompts is not None
    work = tmp_path / "labels"
    work.mkdir()
    write_labels(tiny_llama, "tiny", prompts, recipe, work, QuietProgress())
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for example in iter_shards(work / "train"):
        weights = [0.0, *example.weight.tolist()]
        read, asked, answered = (
            tokenizer.decode([token for token, its in zip(example.tokens, weights, strict=True) if abs(its - w) < 1e-3])
            for w in (0.0, QUESTION_WEIGHT, 1.0)
        )
        assert read.endswith(f"{SYSTEM}<|im_end|>\n<|im_start|>user\n\n<|im_start|>assistant\n")
        assert asked.startswith("What is the ")
        assert asked.endswith("?<|im_end|>")
        assert answered.removesuffix("<|im_end|>") in KINDS.values()
    for example in iter_shards(work / "validation"):
        answered = tokenizer.decode(example.tokens[example.positions + 1])
        assert answered.removesuffix("<|im_end|>") in KINDS.values()


class Speaking:
    """Writes a question each time it is to make one up, of a list in turn, and "animal" as every answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> None:
        self.tokenizer, self.questions = tokenizer, itertools.cycle(questions)

    def __enter__(self) -> "Speaking":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(
        self, prompts: Sequence[Sequence[int]], max_new: int, settings: BatchSettings, seed: int
    ) -> list[Continuation]:
        texts = ["animal" if settings.top_k else next(self.questions) for _ in prompts]
        written = [[*self.tokenizer(text)["input_ids"], *settings.stop_ids[-1:]] for text in texts]
        return [self._seen(prompt, ids, settings.top_k) for prompt, ids in zip(prompts, written, strict=True)]

    def _seen(self, prompt: Sequence[int], ids: list[int], top_k: int) -> Continuation:
        rows = len(prompt) + len(ids) - 1
        likeliest = torch.zeros(rows, top_k, dtype=torch.int32), torch.zeros(rows, top_k, dtype=torch.float16)
        return Continuation(ids, "stop", *(likeliest if top_k else (None, None)))


def test_what_a_row_asks_is_not_made_up_again(tiny_llama: Path, tmp_path: Path):
    """Neither what is learned nor what tests: only the one question that no row has is kept."""
    recipe = recipe_of(tmp_path, tokens=0, text_tokens=60, answers="teacher", new_tokens=1)
    task = task_of(recipe)
    known = [row.words for row in (*task.learn[:6], *task.test[:6])]
    writer = Speaking(AutoTokenizer.from_pretrained(tiny_llama), [*known, "What is the new cat?"])
    work = tmp_path / "teach"
    work.mkdir()
    teach(TeachInputs(writer, tiny_llama, "tiny", recipe, 4, None, task=task), work, QuietProgress())
    (trace,) = iter_traces(work, "new-traces-*.jsonl")
    assert [turn.text for turn in trace.turns] == [SYSTEM, "What is the new cat?", "animal"]
    assert json.loads((work / "teach.json").read_text())["dropped"][ASKED] == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": [{}]}, "no phase trains the teacher; add {train: teacher} to phases"),
        ({"teach": {"new_tokens": 9, "prompts": "rows.jsonl"}, "task": None}, "teach.prompts names a file"),
        ({"teach": {"new_tokens": 9, "style": "text"}}, "teach.style is text"),
    ],
)
def test_what_it_does_not_go_with(tmp_path: Path, changes: dict[str, object], said: str):
    whole = recipe_of(tmp_path).to_dict() | {"phases": [{"train": "teacher"}, {}]}
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(whole | changes)


@pytest.mark.parametrize(
    ("answer", "said"), [("Animal ", None), ("sofa", "no label of the task"), ("", "no label of the task")]
)
def test_an_answer_must_be_one_of_the_labels(tmp_path: Path, answer: str, said: str | None):
    assert task_of(recipe_of(tmp_path)).unfit(answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"take": "cat"}', None),
        ('{"take": "cat", "to": "sea"}', None),
        ('{"take": "cat", "from": "sea"}', "no object of the task's fields"),
        ("{}", "no object of the task's fields"),
        ("[1]", "no object of the task's fields"),
        ('{"take": ', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_an_answer_must_be_an_object_with_known_fields(tmp_path: Path, answer: str, said: str | None):
    rows = [{"prompt": f"{number}?", "answer": {"take": "cat", "to": number}} for number in range(20)]
    path = tmp_path / "objects.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_task(Task(file=str(path))).unfit(answer) == said
