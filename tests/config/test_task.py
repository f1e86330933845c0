"""A task of the user's own: its rows as they are read, split and refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgedistill.config import load_recipe
from edgedistill.config.overrides import Overrides, overridden
from edgedistill.config.prompts import read_prompts
from edgedistill.config.recipe import Recipe
from edgedistill.config.task import Task
from edgedistill.config.task_data import TaskData, canonical, label_of, read_task
from edgedistill.errors import InputError
from edgedistill.pipeline.asked import teaching_prompts
from tests.config.test_prompts import DATA

LABELS = ("open", "close", "stop")


def write(folder: Path, rows: Sequence[object], name: str = "task.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, rows: Sequence[object], **settings: object) -> TaskData:
    return read_task(Task.model_validate({"file": str(write(folder, rows)), **settings}))


def labelled(count: int = 40, answers: Sequence[object] = LABELS) -> list[dict[str, object]]:
    return [{"prompt": f"please do number {n}", "answer": answers[n % len(answers)]} for n in range(count)]


def objects(count: int = 40) -> list[dict[str, object]]:
    return [{"prompt": f"take {n} of them", "answer": {"slots": {"count": n}, "intent": "take"}} for n in range(count)]


def test_every_row_is_on_one_side_and_another_order_of_the_file_changes_neither(tmp_path: Path):
    rows = labelled(200)
    data = read(tmp_path, rows)
    assert len(data.learn) + len(data.test) == 200
    assert 25 <= len(data.test) <= 55
    again = read(tmp_path, rows[::-1])
    assert {row.words for row in again.test} == {row.words for row in data.test}
    assert {row.words for row in data.test}.isdisjoint(row.words for row in data.learn)


def test_a_prompt_that_is_asked_twice_is_on_one_side(tmp_path: Path):
    """Also in other words' clothes: another case, other signs, another system message."""
    rows = labelled(60)
    twice = [{"prompt": f"PLEASE do, number {n}!", "answer": LABELS[n % 3], "system": "Be brief."} for n in range(60)]
    data = read(tmp_path, [*rows, *twice])
    assert len(data.test) % 2 == 0
    sides = [{row.prompt_id for row in side} for side in (data.learn, data.test)]
    assert not sides[0] & sides[1]


def test_more_rows_leave_those_that_were_there_on_their_sides(tmp_path: Path):
    before, after = read(tmp_path, labelled(100)), read(tmp_path, labelled(300))
    assert {row.words for row in before.test} == {row.words for row in after.test} & {
        f"please do number {n}" for n in range(100)
    }


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (labelled(), "classify"),
        (objects(), "extract"),
        ([{"prompt": f"p {n}", "answer": json.dumps({"n": n})} for n in range(40)], "extract"),
        ([{"prompt": f"p {n}", "answer": f"the answer is {n}"} for n in range(40)], "text"),
        ([{"prompt": f"p {n}", "answer": "many words " * 10 + str(n % 2)} for n in range(40)], "text"),
    ],
)
def test_the_kind_is_found_from_the_answers(tmp_path: Path, rows: Sequence[object], kind: str):
    assert read(tmp_path, rows).kind == kind


def test_labels_are_spelled_as_most_rows_spell_them(tmp_path: Path):
    rows = labelled(60, ("Open it", "Open it", " open  IT ", "stop"))
    data = read(tmp_path, rows)
    assert data.labels == ("Open it", "stop")
    assert {row.answer for row in (*data.learn, *data.test)} == {"Open it", "stop"}
    assert label_of(" open \n IT ") == label_of("Open it")


def test_objects_are_json_in_their_own_order_whether_written_as_objects_or_as_text(tmp_path: Path):
    as_text = [row | {"answer": json.dumps(row["answer"], indent=1)} for row in objects()]
    data = read(tmp_path, as_text)
    assert data == read(tmp_path, objects())
    assert set(data.fields) == {"intent", "slots"}
    assert json.loads(data.learn[0].answer)["intent"] == "take"
    assert data.learn[0].answer.startswith('{"slots": {"count": ')
    assert canonical({"b": "é", "a": [1]}) == '{"a": [1], "b": "é"}'
    turned = [row | {"answer": dict(reversed(row["answer"].items()))} for row in objects()]
    assert read(tmp_path, turned).learn[0].answer.startswith('{"intent": "take", "slots": {"count": ')


def test_messages_and_pairs_are_the_same_rows(tmp_path: Path):
    pairs = [row | {"system": "Be brief."} for row in labelled()]
    chats = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in labelled()
    ]
    assert read(tmp_path, pairs) == read(tmp_path, chats)
    assert [message.role for message in read(tmp_path, pairs).learn[0].messages] == ["system", "user"]
    last = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": {"n": n}}]}
        for n in range(40)
    ]
    assert read(tmp_path, last).kind == "extract"


def test_banking77_is_a_classification_with_a_test_file_of_its_own():
    folder = DATA / "banking77"
    if not folder.is_dir():
        pytest.skip("no shared data on this machine")
    settings = {"file": str(folder / "train.csv"), "test": str(folder / "test.csv"), "answer_field": "category"}
    with pytest.raises(InputError, match=r"test\.csv: \d+ of 3080 test prompts are among those to learn from too"):
        read_task(Task.model_validate(settings))
    data = read_task(Task.model_validate(settings | {"test": 0.2}))
    assert data.kind == "classify"
    assert data.labels is not None
    assert len(data.labels) == 77
    assert len(data.learn) + len(data.test) == 10003


def test_test_rows_are_asked_evenly(tmp_path: Path):
    data = read(tmp_path, labelled(400))
    asked = data.asked(10)
    assert len(asked) == 10
    assert [data.test.index(row) for row in asked] == [n * len(data.test) // 10 for n in range(10)]
    assert data.asked(10_000) == data.test


def test_what_is_taught_is_what_may_be_learned_in_an_order_of_its_own(tmp_path: Path):
    rows = sorted(labelled(90), key=lambda row: str(row["answer"]))
    data = read(tmp_path, rows)
    recipe = load_recipe("tiny")
    file = teaching_prompts(data, recipe.teach)
    assert file is not None
    assert sorted(prompt.messages[-1].text for prompt in file.prompts) == sorted(row.words for row in data.learn)
    assert {prompt.answer for prompt in file.prompts[:12]} == set(LABELS)
    assert teaching_prompts(None, recipe.teach) is None
    path = write(tmp_path, [{"prompt": "a"}], "asked.jsonl")
    given = recipe.teach.model_copy(update={"prompts": str(path)})
    assert teaching_prompts(None, given) == read_prompts(path)


def refused(folder: Path, rows: Sequence[object], **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, rows, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"prompt": "a", "answer": "b", "id": 3},
            "task.jsonl:41: the row has the unknown field 'id'; it may have prompt",
        ),
        ({"prompt": "a", "anwser": "b"}, "unknown field 'anwser'"),
        (
            {"prompt": "a"},
            "task.jsonl:41: the row has no answer: answer, output, response, completion, label; it has prompt",
        ),
        ({"answer": "a"}, "the row has no prompt: prompt, question"),
        ({"prompt": "a", "answer": 3}, "the answer is a number; it must be a text or an object"),
        ({"prompt": "a", "answer": " "}, "the answer is empty"),
        ({"prompt": "a", "answer": {}}, "the answer is an empty object"),
        ({"prompt": "a", "answer": "b", "label": "c"}, "the row has two answers, answer and label"),
        ({"prompt": ["a"], "answer": "b"}, "the prompt is a list; it must be a text"),
        ("a", "task.jsonl:41: the row is str"),
        ({"messages": [{"role": "user", "content": "a"}]}, "the last message must be the assistant's"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "it holds messages of the role 'tool'"),
        ({"prompt": "a", "answer": "x" * 3000}, "which no 128 tokens hold; raise task.max_answer_tokens"),
        ({"prompt": "a", "answer": {"b": 1}}, "an object; answers must be of one kind"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, change: object, said: str):
    assert said in refused(tmp_path, [*labelled(), change])


def test_rows_that_can_not_be_learned_or_tested_are_refused(tmp_path: Path):
    assert "all rows to learn from have the one label 'open'" in refused(tmp_path, labelled(answers=("open",)))
    assert "9 rows are too few to learn from and to test; give at least 10" in refused(tmp_path, labelled(9))
    assert "no row is in the test's share of 0.0001" in refused(tmp_path, labelled(), test=0.0001)
    assert "rows are too few to learn from; give at least 8" in refused(tmp_path, labelled(), test=0.9999)
    assert "the answer is an object, and task.kind is classify" in refused(tmp_path, objects(), kind="classify")
    assert "the answer is no JSON object, and task.kind is extract" in refused(tmp_path, labelled(), kind="extract")
    assert "the answer is an object, and task.kind is text" in refused(tmp_path, objects(), kind="text")
    assert "it holds no rows" in refused(tmp_path, [])


def test_a_test_file_that_shares_prompts_with_the_training_file_is_refused(tmp_path: Path):
    test = write(tmp_path, [*labelled(3), {"prompt": "something new", "answer": "open"}], "test.jsonl")
    said = refused(tmp_path, labelled(), test=str(test))
    assert f"{test}: 3 of 4 test prompts are among those to learn from too, the first at {test}:1 and " in said
    assert "task.jsonl:1;" in said
    own = write(tmp_path, [{"prompt": "something new", "answer": "lock"}], "test.jsonl")
    data = read(tmp_path, labelled(), test=str(own))
    assert (len(data.learn), len(data.test)) == (40, 1)
    assert data.notes == ("1 test row has a label that no row to learn from has, such as 'lock'",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", b"a", "rows of a task are read from .jsonl, .json, .csv, .parquet files, not '.txt'"),
        ("t.jsonl", b'{"prompt": "\xff"}', "it is not a text in UTF-8"),
        ("t.jsonl", b"{", "t.jsonl:1: it is not JSON"),
        ("t.csv", b"prompt,answer\na\n", "t.csv:2: the row has not as many cells"),
        ("missing.jsonl", None, "there is no such file of a task's rows"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: bytes | None, said: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_task(Task(file=str(tmp_path / name)))
    assert said in str(caught.value)


def test_parquet_holds_texts_and_objects_as_text(tmp_path: Path):
    """A column of objects has all fields in every row, null where a row has none: nobody's answer."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    prompts = [f"take {n} of them" for n in range(40)]
    texts = [json.dumps({"count": n} if n % 2 else {"kind": "all"}) for n in range(40)]
    parquet.write_table(pyarrow.table({"prompt": prompts, "answer": texts}), tmp_path / "t.parquet")
    data = read_task(Task(file=str(tmp_path / "t.parquet")))
    assert (data.kind, data.fields) == ("extract", ("kind", "count")) or data.fields == ("count", "kind")
    table = pyarrow.table({"prompt": prompts, "answer": [json.loads(text) for text in texts]})
    parquet.write_table(table, tmp_path / "o.parquet")
    with pytest.raises(InputError, match=r"o\.parquet: row 1: the answer is an object, and Parquet gives every object"):
        read_task(Task(file=str(tmp_path / "o.parquet")))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"test": 1.5}, "a share of the prompts above 0 and below 1"),
        ({"test": 1}, "a share of the prompts above 0 and below 1"),
        ({"kind": "classify", "verify": ["python3"]}, "verify is for kind text"),
        ({"kind": "text", "verify": ["no-such-program-here"]}, "there is no such program"),
        ({"kind": "text", "verify": []}, "it must name a program"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        Task.model_validate({"file": "x.jsonl", **settings})


def test_a_verifier_beside_the_recipe_is_found(tmp_path: Path):
    (tmp_path / "check.py").write_text("")
    settings = {"file": "rows.jsonl", "kind": "text", "verify": ["python3", "check.py", "--fast"]}
    task = Task.model_validate(settings, context={"folder": tmp_path})
    assert task.verify == ("python3", str(tmp_path / "check.py"), "--fast")
    assert task.verify_files == (tmp_path / "check.py",)
    assert task.file == str(tmp_path / "rows.jsonl")


def test_the_command_line_names_the_rows_of_a_recipe():
    recipe = load_recipe("tiny")
    named = overridden(recipe, Overrides(data="/a/rows.jsonl"))
    assert named.task == Task(file="/a/rows.jsonl")
    own = recipe.model_copy(update={"task": Task(file="/b.jsonl", items=7)})
    assert overridden(own, Overrides(data="/a/rows.jsonl")).task == Task(file="/a/rows.jsonl", items=7)
    with pytest.raises(InputError, match="--prompts and --data both say what the model is asked"):
        overridden(recipe, Overrides(data="/a", prompts="/b"))


def test_a_task_and_a_file_of_prompts_are_not_both_asked():
    content = load_recipe("tiny").to_dict()
    content["task"] = {"file": "/a.jsonl"}
    asked = content | {"teach": content["teach"] | {"prompts": "/b.jsonl"}}
    with pytest.raises(ValidationError, match="both say what the teacher is asked"):
        Recipe.model_validate(asked)
    waiting = Recipe.model_validate(content | {"task": None, "teach": content["teach"] | {"answers": "own"}})
    assert waiting.lacks_answers == "teach.answers is 'own'"
    recipe = Recipe.model_validate(content | {"teach": content["teach"] | {"answers": "own"}}).decided(True)
    assert recipe.teach.too_few_prompts == "accept"
    assert recipe.teach.max_answer_tokens == 128
