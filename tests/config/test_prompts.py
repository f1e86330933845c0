"""Prompts files: each kind that is read, and the line that each malformed one is named with."""

import datetime
import json
import os
import resource
from pathlib import Path

import pytest

from edgedistill.config.prompts import read_prompts
from edgedistill.data import prompts as data_prompts
from edgedistill.errors import InputError

DATA = Path(os.environ.get("EDGEDISTILL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path: Path, field: str | None = None) -> list[str]:
    """The user's last turn of each prompt."""
    return [prompt.messages[-1].text for prompt in read_prompts(path, field).prompts]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a"}, "a"),
        ({"question": "a", "answer": "b"}, "a"),
        ({"instruction": "a", "input": ""}, "a"),
        ({"instruction": "a", "input": "b", "output": "c"}, "a\n\nb"),
        ({"text": "a"}, "a"),
        ({"turns": ["a", "b"]}, "a"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}, "a"),
        ("a", "a"),
        ({"prompt": None, "text": "a"}, "a"),
        ({"prompt": "p", "text": "t"}, "p"),
    ],
)
def test_rows_of_many_shapes_are_read(tmp_path: Path, row: object, expected: str):
    assert texts(write(tmp_path, "p.jsonl", json.dumps(row) + "\n\n")) == [expected]
    assert texts(write(tmp_path, "p.json", json.dumps([row]))) == [expected]


def test_a_named_field_comes_before_the_known_ones(tmp_path: Path):
    path = write(tmp_path, "p.jsonl", '{"prompt": "p", "mine": "m"}\n')
    assert texts(path, "mine") == ["m"]
    with pytest.raises(
        InputError, match=r"p\.jsonl:1: the row has no field 'mime'; it has prompt, mine\. Did you mean 'mine'\?"
    ):
        read_prompts(path, "mime")


def test_text_and_csv(tmp_path: Path):
    assert texts(write(tmp_path, "p.txt", "one\n\n  two  \n")) == ["one", "two"]
    assert texts(write(tmp_path, "p.csv", 'id,prompt\n1,"a, ""b""\nc"\n2,d\n')) == ['a, "b"\nc', "d"]


def test_parquet_as_pyarrow_writes_it(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"question": ["a", "b"]}), tmp_path / "p.parquet")
    assert texts(tmp_path / "p.parquet") == ["a", "b"]
    with pytest.raises(InputError, match=r"p2\.parquet: it is not a readable Parquet file"):
        read_prompts(write(tmp_path, "p2.parquet", b"PAR1 nonsense"))


def test_a_byte_order_mark_belongs_to_no_text(tmp_path: Path):
    """At the beginning, and where two files with one were put together."""
    mark = "\ufeff"
    for name, content in (
        ("p.jsonl", f'{mark}{{"prompt": "a"}}\n{mark}{{"prompt": "b"}}\n'),
        ("p.json", f'{mark}["a", "b"]'),
        ("p.csv", f"{mark}prompt\na\nb\n"),
        ("p.txt", f"{mark}a\n{mark}b\n"),
    ):
        assert texts(write(tmp_path, name, content)) == ["a", "b"]
        with pytest.raises(InputError, match=r"it is not a text in UTF-8 \(byte 0\); save it as UTF-8"):
            read_prompts(write(tmp_path, name, content.encode("utf-16")))


def test_whole_surrogate_pairs_and_long_cells_are_read(tmp_path: Path):
    assert texts(write(tmp_path, "p.jsonl", '{"prompt": "\\ud83d\\ude80"}\n')) == ["🚀"]
    long = "x" * 2**20
    assert texts(write(tmp_path, "p.csv", f"id,prompt\n\n1,{long}\n")) == [long]


def test_dates_in_parquet_are_texts_as_in_csv(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    day = datetime.date(2024, 2, 29)
    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a"], "answer": [day], "system": [datetime.timedelta(1)]}), path)
    assert texts(path) == ["a"]
    parquet.write_table(pyarrow.table({"prompt": [day]}), path)
    assert texts(path) == ["2024-02-29"]
    parquet.write_table(pyarrow.table({"prompt": [b"a"]}), path)
    with pytest.raises(InputError, match=r"p\.parquet: row 1: the prompt is an object"):
        read_prompts(path)
    parquet.write_table(pyarrow.table({"prompt": ["a", None]}), path)
    with pytest.raises(InputError, match=r"p\.parquet: row 2: the prompt is null \(empty\)"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt", "p.csv"])
def test_a_line_of_a_hundred_megabytes_is_refused_by_its_number(tmp_path: Path, name: str):
    path = tmp_path / name
    with path.open("w") as file:
        file.write('"prompt"\n"')
        for _ in range(100):
            file.write("x" * 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"{name}:2: the line has more than 16777216 characters; cut it up"):
        read_prompts(path)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 90_000, "not the whole line"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.jsonl", '{"prompt": "a\\ud800"}\n', r"p\.jsonl:1: it holds \\ud800, half of a surrogate pair"),
        ("p.json", '["a", "\\udc00"]', r"p\.json: it holds \\udc00, half of a surrogate pair"),
        ("p.txt", b"a\xed\xa0\x80", r"p\.txt: it is not a text in UTF-8 \(byte 1\)"),
        ("p.jsonl", '"a"\n\n{}\n', r"p\.jsonl:3: the row has no field .*; it has none"),
        ("p.jsonl", '"a"\nnull\n', r"p\.jsonl:2: the prompt is null \(empty\)"),
        ("p.csv", "id,prompt\n1,a\n\n2,\n", r"p\.csv:4: the prompt is empty"),
        ("p.csv", 'id,prompt\n1,a\n2,"b\n', r"p\.csv:3: it is not CSV"),
        ("p.csv", "id,prompt\n1," + "x" * (2**20 + 1), r"p\.csv:2: the prompt has 1048577 characters"),
        ("p.csv", "prompt,prompt\na,b\n", r"p\.csv:1: two columns have the name 'prompt'; rename one"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"p\.jsonl:2: it is not JSON \(Expecting value, column 12\)"),
        (
            "p.jsonl",
            '{"prompt": "a"}\n\n{"answer": "b"}\n',
            r"p\.jsonl:3: the row has no field prompt, question, .*it has answer\.",
        ),
        ("p.jsonl", '{"prompt": "  "}\n', r"p\.jsonl:1: the prompt is empty"),
        ("p.jsonl", '{"prompt": 5}\n', r"p\.jsonl:1: the prompt is a number; it must be a text"),
        ("p.jsonl", "[1]\n", r"p\.jsonl:1: the prompt is a list"),
        ("p.jsonl", '{"turns": []}\n', r"p\.jsonl:1: the row has no field"),
        ("p.jsonl", '{"messages": [{"role": "system", "content": "s"}]}\n', r"p\.jsonl:1: the prompt is null"),
        ("p.jsonl", "[" * 100_000 + "\n", r"p\.jsonl:1: it is not JSON"),
        ("p.jsonl", b'{"prompt": "\xff"}\n', r"p\.jsonl: it is not a text in UTF-8"),
        ("p.jsonl", "", r"p\.jsonl: it holds no prompts"),
        ("p.txt", "\n \n", r"p\.txt: it holds no prompts"),
        ("p.csv", "prompt\n", r"p\.csv: it holds no prompts"),
        ("p.csv", "a,prompt\n1,x\n2\n", r"p\.csv:3: the row has not as many cells"),
        ("p.json", '{"prompt": "a"}', r"p\.json: it holds an object; a \.json file of prompts is one list"),
        ("p.json", '[{"prompt": "a"}, 5]', r"p\.json: entry 2: the prompt is a number"),
        ("p.json", "", r"p\.json: it holds no prompts"),
        ("p.xlsx", "x", r"prompts are read from \.jsonl, \.json, \.csv, \.parquet, \.txt files, not '\.xlsx'"),
        ("p.txt", "x" * (2**20 + 1), r"p\.txt:1: the prompt has 1048577 characters"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, expected: str):
    with pytest.raises(InputError, match=expected):
        read_prompts(write(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.jsonl: there is no such prompts file"):
        read_prompts(tmp_path / "none.jsonl")


def test_data_rooms_read_with_the_same_function():
    assert data_prompts.read_prompts is read_prompts


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("mt_bench/mt_bench_question.jsonl", 80, "Compose an engaging travel blog"),
        ("gsm8k/test.jsonl", 1319, "Janet’s ducks lay 16 eggs"),
    ],
)
def test_published_files_are_read(name: str, count: int, first: str):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not under {DATA}; set EDGEDISTILL_DATA")
    found = texts(DATA / name)
    assert len(found) == count
    assert found[0].startswith(first)
