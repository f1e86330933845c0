"""The user's task put to real files: answers as transformers writes them, scores and differences as of their bits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.config.task import Task
from edgedistill.config.task_data import TaskData, read_task
from edgedistill.errors import InputError
from edgedistill.measure.intervals import paired_difference, wilson
from edgedistill.measure.task_answers import AllSaid, Said, ask_rows, grade, with_differences
from edgedistill.measure.task_items import TaskItems, choose_task_items, plain_text
from edgedistill.progress import QuietProgress
from edgedistill.results.measurement import TaskAnswers
from edgedistill.runtimes.llama import LlamaCpp

LABELS = ("open", "close", "stop")


class Notes(QuietProgress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def data_of(folder: Path, **settings: object) -> tuple[Task, TaskData]:
    rows = [{"system": "Be brief.", "prompt": f"please do number {n}", "answer": LABELS[n % 3]} for n in range(60)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task.model_validate({"file": str(path), "items": 6, "max_answer_tokens": 7, **settings})
    return task, read_task(task)


def items_of(folder: Path, model: Path, chats: bool = True, **settings: object) -> TaskItems:
    task, data = data_of(folder, **settings)
    return choose_task_items(task, data, chats, model, QuietProgress())


def greedy(folder: Path, items: TaskItems) -> list[str]:
    """What transformers writes, token by token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = []
    for row in items.rows:
        messages = [{"role": message.role, "content": message.text} for message in row.messages]
        text = plain_text(row.messages)
        if items.chats:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        made: list[int] = []
        with torch.inference_mode():
            while len(made) < 7 and tokenizer.eos_token_id not in made:
                made.append(int(network(torch.tensor([ids + made])).logits[0, -1].argmax()))
        texts.append(tokenizer.decode(made, skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("chats", [True, False])
def test_answers_are_those_that_transformers_writes(tiny_gguf: Path, tiny_llama: Path, tmp_path: Path, chats: bool):
    items = items_of(tmp_path, tiny_llama, chats)
    with LlamaCpp(tiny_gguf, threads=1, context=items.tokens, parallel=4) as model:
        said = ask_rows(model, items, QuietProgress())
    assert [answer.text for answer in said.answers] == greedy(tiny_llama, items)
    assert len(said.answers) == 6


def said(*texts: str, cut: int = 0) -> AllSaid:
    return AllSaid(tuple(Said(text, cut=number < cut) for number, text in enumerate(texts)))


def test_a_score_has_share_interval_figures_and_the_first_wrong_answers(tiny_llama: Path, tmp_path: Path):
    items = items_of(tmp_path, tiny_llama)
    expected = [row.answer for row in items.rows]
    answers = said(*expected[:3], "dance", "x" * 2000, "", cut=2)
    graded = grade(items, answers, lambda: None)
    score = graded.score
    assert graded.bits == "111000"
    assert (score.metric, score.items, score.right, score.share) == ("accuracy", 6, 3, 0.5)
    assert (score.low, score.high) == wilson(3, 6)
    assert score.figures["no_label_share"] == 0.5
    assert score.figures["cut_off_share"] == pytest.approx(2 / 6)
    assert [wrong.got[:5] for wrong in score.wrong] == ["dance", "xxxxx", ""]
    assert [wrong.expected for wrong in score.wrong] == expected[3:]
    assert len(score.wrong[1].got) == 600
    assert score.wrong[0].prompt == items.rows[3].messages[-1].text


def test_differences_are_paired_on_the_same_rows(tiny_llama: Path, tmp_path: Path):
    graded = grade(items_of(tmp_path, tiny_llama), said(*["open"] * 6), lambda: None)
    own = "110100"
    bits = {"float": "111111", "teacher": "001100", "rival": "000000"}
    others = {name: replace(graded, bits=digits) for name, digits in bits.items()}
    score = with_differences(replace(graded, bits=own), others, 2)
    pair = paired_difference([True] * 6, [bit == "1" for bit in own], 0.975)
    assert score.to_float is not None
    assert (score.to_float.difference, score.to_float.low, score.to_float.high) == (
        pair.difference,
        pair.low,
        pair.high,
    )
    assert score.to_teacher is not None
    assert score.to_teacher.difference == pytest.approx((3 - 2) / 6)
    alone = paired_difference([False] * 6, [bit == "1" for bit in own], 0.95)
    assert score.to_rival is not None
    assert (score.to_rival.low, score.to_rival.high) == (alone.low, alone.high)
    assert with_differences(graded, {}, 1).to_float is None


def test_objects_have_the_f1_of_their_fields_with_its_own_differences(tiny_llama: Path, tmp_path: Path):
    rows = [{"prompt": f"take {n}", "answer": {"intent": "take", "count": n}} for n in range(60)]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task(file=str(tmp_path / "o.jsonl"), items=6)
    items = choose_task_items(task, read_task(task), True, tiny_llama, QuietProgress())
    right = [row.answer for row in items.rows]
    base, own = (
        grade(items, said(*right), lambda: None),
        grade(items, said(*right[:3], "{}", '{"intent": "take"}', "no"), lambda: None),
    )
    assert own.fields == ((2, 0, 0),) * 3 + ((0, 0, 2), (1, 0, 1), (0, 0, 2))
    score = with_differences(own, {"float": base, "teacher": own}, 1)
    assert score.f1 is not None
    assert score.f1.f1 == score.figures["field_f1"] == pytest.approx(2 * 7 / (2 * 7 + 5))
    assert score.f1.low < score.f1.f1 < score.f1.high
    assert score.f1.to_float is not None
    assert score.f1.to_float.difference == pytest.approx(score.f1.f1 - 1)
    assert score.f1.to_teacher is not None
    assert score.f1.to_teacher.difference == 0
    assert TaskAnswers.from_json(json.loads(json.dumps(own.to_json()))) == own
    assert grade(items_of(tmp_path, tiny_llama), said(*["open"] * 6), lambda: None).score.f1 is None


def test_a_verifier_decides_where_the_user_named_one(tiny_llama: Path, tmp_path: Path):
    program = tmp_path / "check.py"
    program.write_text("import json, sys\nsys.exit(0 if json.load(sys.stdin)['answer'].startswith('o') else 1)\n")
    items = items_of(tmp_path, tiny_llama, kind="text", verify=["python3", str(program)])
    graded = grade(items, said("o", "oo", "a", "b", "c", "ooo"), lambda: None)
    assert graded.bits == "110001"
    assert graded.score.metric == "right by the verifier"
    assert items.facts.kind == "text"


def test_rows_that_do_not_fit_the_context_are_left_out_and_said(tiny_llama: Path, tmp_path: Path):
    task, data = data_of(tmp_path)
    long = replace(data.test[0], messages=(replace(data.test[0].messages[-1], text="word " * 400),))
    progress = Notes()
    items = choose_task_items(task, replace(data, test=(long, *data.test[1:6])), True, tiny_llama, progress)
    assert (len(items.rows), items.facts.items, items.facts.left_out) == (5, 5, 1)
    assert "task rows: 1 of 6 test rows aren't asked" in progress.notes[0]
    with pytest.raises(InputError, match="none of the 1 test rows can be asked"):
        choose_task_items(task, replace(data, test=(long,)), True, tiny_llama, progress)


def test_a_system_message_that_the_template_has_no_place_for_is_not_asked(tiny_llama: Path, tmp_path: Path):
    import shutil

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    shows = items_of(tmp_path, folder)
    assert [message.role for message in shows.rows[0].messages] == ["system", "user"]
    template = (folder / "chat_template.jinja").read_text()
    hides = template.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    assert hides != template
    (folder / "chat_template.jinja").write_text(hides)
    assert [message.role for message in items_of(tmp_path, folder).rows[0].messages] == ["user"]
