"""`--data` as a user types it: asked of every file, or refused in one sentence before anything runs."""

import csv
import json
from pathlib import Path

import pytest

from tests.e2e.conftest import edgedistill
from tests.e2e.test_compare import words

KINDS = {"cat": "animal", "dog": "animal", "house": "place", "river": "place", "friend": "person"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 made-up rows; an answer is an object, whose words and marks are HTML's too."""
    path = tmp_path_factory.mktemp("rows") / "take.jsonl"
    adjectives = ("old", "small", "quick", "brown", "lazy", "short", "blue", "red", "young", "tall", "wild", "tame")
    lines = [
        {"prompt": f"Take the {word} {noun} <b>!", "answer": {"intent": "take", "slots": {"kind": kind, "word": word}}}
        for word in adjectives
        for noun, kind in KINDS.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def compared(talking_llama: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("task") / "run"
    done = edgedistill(*words(talking_llama, out, "--mix", "q8_0", "--data", rows))
    assert done.returncode == 0, done.stderr
    assert "task take (extract, objects with the fields intent, slots)" in done.stderr
    return out, done.stdout


def test_every_file_is_asked_and_the_table_leads_with_it(compared: tuple[Path, str]):
    run, printed = compared
    report = json.loads((run / "report.json").read_text())
    assert report["left_out"] == []
    assert (report["task"]["name"], report["task"]["kind"], report["task"]["metric"]) == (
        "take",
        "extract",
        "exact match",
    )
    items = report["task"]["items"]
    assert items == report["task"]["test_rows"]
    assert items + report["task"]["learn_rows"] == 60
    for row in report["rows"]:
        score = row["task"]
        assert score["items"] == items
        assert score["right"] + len(score["wrong"]) >= min(items, 5)
        assert {"field_f1", "field_share", "valid_json_share", "cut_off_share"} == set(score["figures"])
        assert ("to_float" in score) is (row["kind"] != "float")
    assert "exact match" in printed
    with (run / "compare.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["task_share"]) for line in table] == [
        next(row["task"]["share"] for row in report["rows"] if row["label"] == line["label"]) for line in table
    ]


def test_its_page_and_card_show_it_and_keep_text_as_text(compared: tuple[Path, str]):
    run, _ = compared
    page = (run / "report.html").read_text()
    assert '<section id="task"' in page
    assert "&lt;b&gt;!" in page
    assert "<b>!" not in page
    assert "## The task: take" in (run / "bundle" / "README.md").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "answer": "b"}', "answers must be of one kind"),
        ('{"prompt": "a", "answer": {"b": 1}, "id": 1}', "take.jsonl:61: the row has the unknown field 'id'"),
        ("{", "take.jsonl:61: it is not JSON"),
    ],
)
def test_a_wrong_row_is_one_sentence_and_nothing_runs(
    talking_llama: Path, rows: Path, tmp_path: Path, line: str, said: str
):
    wrong = tmp_path / "take.jsonl"
    wrong.write_text(rows.read_text() + line + "\n")
    done = edgedistill(*words(talking_llama, tmp_path / "run", "--mix", "q8_0", "--data", wrong))
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
