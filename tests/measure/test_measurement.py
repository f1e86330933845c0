"""The whole stage on real files: what it writes, that the report takes it all, and that a killed one repeats
nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from edgedistill.config.tasks import read_questions, read_requests
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.measure.intervals import wilson
from edgedistill.measure.items import choose_items
from edgedistill.measure.multiple_choice import Question, answer_questions
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import Progress, QuietProgress
from edgedistill.quant.rounded import round_weights
from edgedistill.runtimes.llama import LlamaCpp
from tests.measure.stage_child import recipe, run
from tests.pairs import make_sibling
from tests.report.sample import built, parts

OWN = [
    {"question": "The old cat", "options": ["sees the red fox.", "sees"], "answer": "A"},
    {"question": "Paris is", "options": ["a", "b", "c"], "answer": 2},
]


@pytest.fixture(scope="module")
def folder(talking_llama, tmp_path_factory) -> Path:
    """The talking llama as a folder, as a float file, rounded, and rounded after a small change, which stands for a
    training.
    """
    out = tmp_path_factory.mktemp("stage")
    shutil.copytree(talking_llama, out / "model")
    shape = read_facts(talking_llama, "tiny").shape
    state = load_model(talking_llama).state_dict()
    weights = {t.name: state[t.name] for t in shape.tensors()}
    write_gguf(float_checkpoint(weights, "f32"), talking_llama, shape, out / "float.gguf", {"name": "a"})
    torch.manual_seed(0)
    for name, scale in (("rounded", 0.0), ("recovered", 0.01)):
        changed = {
            t.name: state[t.name] + scale * state[t.name].std() * torch.randn_like(state[t.name])
            for t in shape.tensors()
        }
        checkpoint = round_weights(changed, assign_formats(shape, Mix("q4_0", "q4_0")), "q4_0")
        write_gguf(checkpoint, talking_llama, shape, out / f"{name}.gguf", {"name": "a"})
    (out / "own.jsonl").write_text("\n".join(map(json.dumps, OWN)), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory) -> dict:
    """What an uninterrupted stage writes."""
    work = tmp_path_factory.mktemp("whole")
    run(folder, work)
    return json.loads((work / "measure.json").read_text(encoding="utf-8"))


def test_rows_have_tasks_refusals_and_differences_from_the_float_row(measured, folder):
    base, rounded, recovered = measured["rows"]
    assert [(s["name"], s["kind"], s["items"]) for s in measured["task_sets"]] == [
        ("openbookqa", "multiple choice", 6),
        ("own", "multiple choice", 2),
        ("unsafe", "refusals", 3),
        ("safe", "refusals", 3),
    ]
    assert "differences" not in base
    for row in (base, rounded, recovered):
        assert {name: task["items"] for name, task in row["tasks"].items()} == {"openbookqa": 6, "own": 2}
        for share in row["tasks"].values():
            assert (share["low"], share["high"]) == wilson(share["right"], share["items"])
        assert {name: kind["items"] for name, kind in row["refusals"].items()} == {"unsafe": 3, "safe": 3}
    for row in (rounded, recovered):
        assert set(row["differences"]) == {"openbookqa", "own", "refusals unsafe", "refusals safe"}
        for name in ("openbookqa", "own"):
            found = row["differences"][name]
            assert found["difference"] == pytest.approx(row["tasks"][name]["share"] - base["tasks"][name]["share"])
            assert found["low"] <= found["difference"] <= found["high"]
    with LlamaCpp(folder / "rounded.gguf", threads=1, context=512) as model:
        items = read_questions("openbookqa", 6).items
        answers = answer_questions(model, [Question(i.question, i.options, i.right) for i in items], QuietProgress())
    assert rounded["tasks"]["openbookqa"]["right"] == sum(
        a.chosen_norm == i.right for a, i in zip(answers, items, strict=True)
    )


def test_rows_have_worst_tokens_layers_and_the_same_prompts_answered(measured):
    base, rounded, recovered = measured["rows"]
    assert "worst" not in base
    for row in (rounded, recovered):
        assert 1 <= len(row["worst"]) <= 5
        assert [entry["kl"] for entry in row["worst"]] == sorted((entry["kl"] for entry in row["worst"]), reverse=True)
    (layers,) = measured["layers"].values()
    assert measured["layers_by"] == "weights"
    assert all(0 < entry["rounded"] < entry["recovered"] < 0.2 for entry in layers if entry["layer"] is not None)
    assert all(set(sample["answers"]) == {"float", "rounded", "recovered"} for sample in measured["samples"])


def test_the_report_takes_all_of_it(measured):
    report = built(**{**parts(), "measure": measured})
    assert report["left_out"] == []
    for found, row in zip(report["rows"], measured["rows"], strict=True):
        for key in ("tasks", "refusals", "worst", "differences"):
            assert found.get(key) == row.get(key)
    assert report["layers"] == measured["layers"]


def test_a_killed_stage_goes_on_and_repeats_nothing(measured, folder, tmp_path):
    """kill -9 twice: within the second file and before its refusals. What was there isn't written again, and the end is
    the same.
    """
    kept: dict[Path, tuple[int, bytes]] = {}
    for last in ("row-rounded/part-quality.json", "row-rounded/part-task-1.json"):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.measure.stage_child", folder, tmp_path], start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not (tmp_path / last).is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "measure.json").exists()
        kept |= {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in tmp_path.glob("row-*/part-*.json")
            if path not in kept
        }
    names = {str(path.relative_to(tmp_path)) for path in kept}
    assert names >= {"row-float/part-refusals.json", "row-rounded/part-quality.json", "row-rounded/part-task-0.json"}
    run(folder, tmp_path)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept} == kept
    found = json.loads((tmp_path / "measure.json").read_text(encoding="utf-8"))
    for key in ("task_sets", "layers", "layers_by", "samples", "recovered", "judges"):
        assert found[key] == measured[key]
    for row, whole in zip(found["rows"], measured["rows"], strict=True):
        assert {**row, "speed": None} == {**whole, "speed": None}


def test_nothing_is_asked_where_the_recipe_says_so(folder, tmp_path):
    run(folder, tmp_path, tasks=(), refusal_items=0)
    found = json.loads((tmp_path / "measure.json").read_text(encoding="utf-8"))
    assert found["task_sets"] == []
    assert not any({"tasks", "refusals", "differences"} & set(row) for row in found["rows"])


class Notes(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_items_longer_than_the_context_are_left_out_and_said(folder, tmp_path):
    lines = [*OWN, {"question": "word " * 300, "options": ["a", "b"], "answer": 0}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    notes = Notes()
    asked = choose_items(recipe(tmp_path, tasks=(str(tmp_path / "own.jsonl"),)).measure, folder / "model", notes)
    assert [len(found.items) for found in asked.questions] == [2]
    assert notes.said == ["own: 1 of 3 are longer than the model's context of 256 tokens and aren't asked"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    longest = max(
        len(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
        )
        for requests in read_requests(3)
        for text in requests.items
    )
    assert longest + 24 <= asked.request_tokens <= longest + 40
    behind_a_system = choose_items(recipe(tmp_path).measure, folder / "model", notes, "Be brief.")
    assert behind_a_system.request_tokens > asked.request_tokens
    assert (behind_a_system.system, asked.system) == ("Be brief.", None)


def test_items_fit_a_teacher_with_other_words_too(folder, tmp_path):
    """400 tokens split a request into more than 512 do; and its context is shorter."""
    other = make_sibling(tmp_path / "other", vocab=300, context=200)
    lines = [*OWN, {"question": "capital " * 60, "options": ["a", "b"], "answer": 0}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings, notes = recipe(tmp_path, tasks=(str(tmp_path / "own.jsonl"),)).measure, Notes()
    alone = choose_items(settings, folder / "model", QuietProgress())
    both = choose_items(settings, folder / "model", notes, others=[other])
    assert [len(items.items) for items in alone.questions] == [3]
    assert [len(items.items) for items in both.questions] == [2]
    assert both.request_tokens > alone.request_tokens
    assert notes.said[0] == "own: 1 of 3 are longer than the model's context of 200 tokens and aren't asked"


def test_a_model_that_does_not_chat_is_asked_no_requests(folder, tmp_path):
    model = Path(shutil.copytree(folder / "model", tmp_path / "model"))
    (model / "chat_template.jinja").unlink()
    asked = choose_items(recipe(folder).measure, model, QuietProgress())
    assert asked.requests == ()
    assert len(asked.questions) == 2
