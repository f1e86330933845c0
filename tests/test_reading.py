"""Files of the user's: marks, halves of characters, lines without end, and what is no file."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgedistill import reading
from edgedistill.config.prompts import read_prompts
from edgedistill.config.tasks import read_questions
from edgedistill.data.prose import read_prose
from edgedistill.errors import InputError

QUESTION = {"question": "Who?", "options": ["a", "b"], "answer": 0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "Who is it?\r\nWhere?\r\n"),
        ("a.csv", 'prompt,id\r\n"Who is it?",1\r\n'),
        ("a.json", '["Who is it?"]'),
        ("a.jsonl", '{"prompt": "Who is it?"}\r\n'),
    ],
)
def test_a_byte_order_mark_belongs_to_no_prompt(name: str, content: str, tmp_path: Path):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_prompts(tmp_path / name)[0] == "Who is it?"


def test_a_byte_order_mark_belongs_to_no_text_and_no_question(tmp_path: Path):
    (tmp_path / "t.txt").write_text("The small red fox. " * 200, encoding="utf-8-sig")
    assert read_prose("train", [str(tmp_path / "t.txt")])[0].startswith("The small")
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION), encoding="utf-8-sig")
    assert read_questions(str(tmp_path / "q.jsonl")).items[0].question == "Who?"


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "Look \\ud83d"}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2: it holds \\ud83d, half of a surrogate pair"):
        read_prompts(prompts)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps(QUESTION | {"question": "Look \ude00"}))
    with pytest.raises(InputError, match=r"q\.jsonl:1: it holds \\ude00"):
        read_questions(str(questions))
    prompts.write_text('{"prompt": "Look \\ud83d\\ude00"}\n')  # a whole one
    assert read_prompts(prompts)[0] == "Look \U0001f600"


def test_a_line_without_end_is_refused_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MAX_LINE_CHARACTERS", 100)
    path = tmp_path / "p.txt"
    path.write_text("short\n" + "a" * 101)
    with pytest.raises(InputError, match=r"p\.txt:2: the line has more than 100 characters"):
        read_prompts(path)
    path.write_text("a" * 100 + "\n" + "b" * 100)
    assert len(read_prompts(path).prompts) == 2


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "q.jsonl")
    with pytest.raises(InputError, match="it is a pipe or a device, not a file"):
        read_questions(str(tmp_path / "q.jsonl"))


@pytest.mark.parametrize("value", ['""', "null"])
def test_an_empty_prompt_is_called_empty_and_no_other_column_taken(value: str, tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "Who?", "text": "x"}\n{"prompt": VALUE, "text": "y"}\n'.replace("VALUE", value))
    with pytest.raises(InputError, match=r"p\.jsonl:2: the prompt is .*empty"):
        read_prompts(path)


def bomb(path: Path, column: str) -> None:
    """A small file of 3,000 rows, of which a column unfolds into 3 GB."""
    long = pa.array(["x" * 1_000_000]).take(pa.array([0] * 1500))
    columns = {"prompt": ["a"] * 3000, column: pa.chunked_array([long, long])}
    parquet.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 10_000


def test_a_parquet_column_that_nobody_asked_for_is_not_read(tmp_path: Path):
    bomb(tmp_path / "p.parquet", "junk")
    assert len(read_prompts(tmp_path / "p.parquet").prompts) == 3000


def test_a_parquet_file_that_unfolds_without_bounds_is_refused(tmp_path: Path):
    bomb(tmp_path / "p.parquet", "prompt")
    with pytest.raises(InputError, match=r"p\.parquet: its rows unfold into more than 536870912 characters"):
        read_prompts(tmp_path / "p.parquet")


def test_parquet_is_read_as_before(tmp_path: Path):
    path = tmp_path / "p.parquet"
    parquet.write_table(pa.table({"id": [1, 2], "question": ["a", "b"], "answer": ["c", None]}), path)
    assert [prompt.answer for prompt in read_prompts(path).prompts] == ["c", None]
    parquet.write_table(pa.table({"id": [1], "body": ["a"]}), path)
    with pytest.raises(InputError, match=r"row 1: the row has no field prompt, .*; it has id, body"):
        read_prompts(path)
    path.write_bytes(b"PAR1" + b"x" * 40 + b"PAR1")
    with pytest.raises(InputError, match="it is not a readable Parquet file"):
        read_prompts(path)
