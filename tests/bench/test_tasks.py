"""bench/tasks.py on made-up test sets and a tiny file: the items as the sets' own files hold them, the cache, the
comparison.
"""

import bz2
import json
import os
from pathlib import Path

import pytest

from bench import task_items, tasks
from edgedistill.errors import InputError
from edgedistill.measure.multiple_choice import Question
from tests.runtimes.conftest import write_gguf

REAL = Path(os.environ.get("EDGEDISTILL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def instruction(stem: str, options: list[str], right: int) -> dict[str, str]:
    listed = " ".join(f"Answer{number}: {option}" for number, option in enumerate(options, 1))
    form = "/".join(f"answer{number}" for number in range(1, len(options) + 1))
    text = f"Please choose the correct answer to the question: {stem}\n\n{listed}\n\nAnswer format: {form}"
    return {
        "instruction": text,
        "input": "",
        "output": f"the correct answer is answer{right}",
        "answer": f"answer{right}",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of test sets with some items each."""
    folder = tmp_path / "data"
    for name in ("arc", "openbookqa", "hellaswag", "xstest", "strongreject"):
        (folder / name).mkdir(parents=True)
    arc = [
        instruction(f"Which {word} is it?", ["a dog", "a cat.", "the sea"], 1 + index % 3)
        for index, word in enumerate("abcdefgh")
    ]
    (folder / "arc" / "ARC-Easy_test.json").write_text(json.dumps(arc))
    stem = instruction("Dogs eat", ["bones", "Answers", "7", "red"], 4)
    (folder / "openbookqa" / "openbookqa_test.json").write_text(json.dumps([stem] * 3))
    rows = ["Sailing: A man is on a boat. the man", "2", "sails.", "runs.", "sleeps.", "sees a dog."]
    other = ["Baking: How to bake. Take flour.", "0", "Add salt.", "Run.", "Sleep.", "Sing."]
    (folder / "hellaswag" / "hellaswag_val_full.txt.bz2").write_bytes(
        bz2.compress("\n".join([*rows, *other, ""]).encode())
    )
    table = (
        'id,prompt,type,label,focus,note\n1,How do I kill a process?,homonyms,safe,kill,x\n2,"How, '
        'then?",contrast,unsafe,kill,x\n'
    )
    (folder / "xstest" / "xstest_prompts.csv").write_text(table)
    (folder / "strongreject" / "strongreject_dataset.csv").write_text("category,source,forbidden_prompt\nx,y,Do it\n")
    return folder


def test_items_are_worded_as_in_the_harness(data):
    assert task_items.arc_easy(data)[1] == Question(
        "Question: Which b is it?\nAnswer:", ("a dog", "a cat.", "the sea"), 1
    )
    assert task_items.openbookqa(data)[0] == Question("Dogs eat", ("bones", "Answers", "7", "red"), 3)
    sailing, baking = task_items.hellaswag(data)
    assert sailing == Question("Sailing: A man is on a boat. The man", ("sails.", "runs.", "sleeps.", "sees a dog."), 2)
    assert (baking.prompt, baking.right) == ("Baking: How to bake. Take flour.", 0)
    assert task_items.xstest(data, "unsafe") == ["How, then?"]
    assert task_items.strongreject(data) == ["Do it"]


def test_real_sets_are_read_whole():
    if not REAL.is_dir():
        pytest.skip(f"the test sets are not under {REAL}; set EDGEDISTILL_DATA")
    counts = {name: len(read(REAL)) for name, read in (task_items.QUESTIONS | task_items.REQUESTS).items()}
    assert counts == {
        "arc_easy": 2376,
        "hellaswag": 10042,
        "openbookqa": 500,
        "xstest_safe": 250,
        "xstest_unsafe": 200,
        "strongreject": 313,
    }


def test_subset_is_always_the_same_and_in_order():
    found = task_items.subset(range(1000), 50)
    assert found == task_items.subset(range(1000), 50) == sorted(set(found))
    assert len(found) == 50
    assert task_items.subset([1, 2], 5) == [1, 2]


def test_missing_set_and_strange_row_are_one_sentence(data):
    (data / "openbookqa" / "openbookqa_test.json").write_text(json.dumps([instruction("Dogs eat", ["bones"], 2)]))
    with pytest.raises(InputError, match=r"openbookqa_test.json: row 0 is not .* with answer2 among them"):
        task_items.openbookqa(data)
    (data / "xstest" / "xstest_prompts.csv").unlink()
    with pytest.raises(InputError, match=r"xstest_prompts.csv: there is no such file; set EDGEDISTILL_DATA"):
        task_items.xstest(data, "safe")


@pytest.fixture(scope="module")
def gguf_file(tiny_llama, tmp_path_factory):
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("tasks") / "tiny.gguf")


def test_a_file_is_measured_once(gguf_file, data, tmp_path, monkeypatch):
    found = tasks.run_tasks(gguf_file, tmp_path / "cache", {"arc_easy": 5, "xstest_safe": 9}, threads=1, data=data)
    assert json.loads(json.dumps(found)) == found
    arc, safe = found["tasks"]["arc_easy"], found["tasks"]["xstest_safe"]
    assert (arc["n"], arc["main"], safe["n"], safe["main"], safe["lower_is_better"]) == (5, "acc", 1, "refused", True)
    figure = arc["figures"]["acc"]
    assert figure["share"] == figure["bits"].count("1") / 5
    assert figure["low"] <= figure["share"] <= figure["high"]
    assert set(arc["figures"]) == {"acc", "acc_norm"}

    monkeypatch.setattr(tasks, "_measure", lambda *_: pytest.fail("what is in the cache was measured again"))
    assert (
        tasks.run_tasks(gguf_file, tmp_path / "cache", {"arc_easy": 5}, threads=1, data=data)["tasks"]["arc_easy"]
        == arc
    )
    with pytest.raises(pytest.fail.Exception):
        tasks.run_tasks(gguf_file, tmp_path / "cache", {"arc_easy": 6}, threads=1, data=data)


def measured(file: str, **bits: str) -> dict:
    """A result with these bits a task."""
    rows = {
        task: {"main": "x", "items_sha256": f"{task}{len(text)}", "figures": {"x": {"bits": text}}}
        for task, text in bits.items()
    }
    return {"file": file, "tasks": rows}


def test_comparison_is_paired_pooled_and_knows_the_better_side():
    first = measured("a", arc_easy="1" * 12 + "0" * 8, openbookqa="10" * 10, xstest_safe="0" * 20)
    second = measured("b", arc_easy="0" * 12 + "0" * 8, openbookqa="01" * 10, xstest_safe="1" * 20)
    found = tasks.compare(first, second)
    assert list(found) == ["arc_easy", "openbookqa", "xstest_safe", "multiple_choice"]
    arc = found["arc_easy"]
    assert (arc["first"], arc["second"], arc["difference"], arc["only_first"], arc["only_second"]) == (
        0.6,
        0.0,
        -0.6,
        12,
        0,
    )
    assert arc["verdict"] == "worse"
    book = found["openbookqa"]
    assert (book["verdict"], book["only_first"], book["only_second"]) == ("no difference shown", 10, 10)
    assert found["xstest_safe"]["verdict"] == "worse"  # it declines what it need not
    assert (found["multiple_choice"]["n"], found["multiple_choice"]["only_first"]) == (40, 22)
    assert tasks.compare(second, first)["arc_easy"]["verdict"] == "better"


def test_other_items_are_not_compared():
    with pytest.raises(
        InputError, match="a and b answered different items of arc_easy; measure both with the same limits"
    ):
        tasks.compare(measured("a", arc_easy="10"), measured("b", arc_easy="101"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"arc_eazy": 3}, r"task 'arc_eazy' is unknown; it must be one of arc_easy, .* Did you mean 'arc_easy'\?"),
        ({"arc_easy": 0}, "task 'arc_easy': the limit is 0; it must be at least 1"),
    ],
)
def test_wrong_limits_are_one_sentence(gguf_file, data, tmp_path, limits, words):
    with pytest.raises(InputError, match=words):
        tasks.run_tasks(gguf_file, tmp_path, limits, data=data)


def test_command_writes_the_record_and_prints_it(gguf_file, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "DATA", data)
    out = tmp_path / "out.json"
    words = [str(gguf_file), str(gguf_file), "--out", str(out), "--cache", str(tmp_path / "cache"), "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["tasks.py", *words])
    tasks.main()
    record = json.loads(out.read_text())
    assert [entry["file"] for entry in record["files"]] == ["tiny.gguf"] * 2
    assert {row["verdict"] for row in record["comparisons"][0]["tasks"].values()} == {"no difference shown"}
    assert "tiny.gguf against tiny.gguf  multiple_choice" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["tasks.py", str(gguf_file), "--out", str(out), "--limit", "arc=3"])
    with pytest.raises(SystemExit, match="Error: task 'arc' is unknown"):
        tasks.main()
