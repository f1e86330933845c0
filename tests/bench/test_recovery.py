"""The whole comparison on a tiny model and texts of a few lines: every step, and that what is done isn't done again."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.tiny import CORPUS

pytest.importorskip("matplotlib")

LONG = " ".join(CORPUS * 2)
LONG_WINDED = "7 " * 195  # few enough characters, but too many tokens to be answered within the context


@pytest.fixture
def data(tmp_path):
    """A data folder with as little as the comparison reads."""
    book = f"*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n{LONG}\n\n{LONG}\n\n*** END"
    tasks = "\n".join(json.dumps({"instruction": text, "instances": [{"input": ""}]}) for text in CORPUS[4:6])
    files = {
        "wikitext2/valid.txt": f" {LONG} \n" * 8,
        "wikitext2/wiki.test.raw": LONG * 6,
        "gutenberg/1342-0.txt": book,
        "gutenberg/2701-0.txt": book,
        "gutenberg/1661.txt": book,
        "mt_bench/mt_bench_question.jsonl": "\n".join(
            json.dumps({"question_id": number, "turns": [text, "Why?"]})
            for number, text in enumerate((*CORPUS[:2], LONG_WINDED))
        ),
        "mt_bench/mt_bench_reference_answer_gpt-4.jsonl": json.dumps(
            {"question_id": 0, "choices": [{"turns": [CORPUS[1], CORPUS[2]]}]}
        ),
        "mbpp/mbpp_test.jsonl": json.dumps({"prompt": "Add.", "code": "def add(a, b):\r\n    return a + b"}),
        "gsm8k/test.jsonl": json.dumps({"question": "How many?", "answer": "1 + 2 = <<1+2=3>>3\n#### 3"}),
        "arena_hard/arena_hard_v0.1.jsonl": "\n".join(json.dumps({"prompt": text}) for text in CORPUS[2:4]),
        "arena_hard/arena_hard_v2.0.jsonl": "\n".join(
            json.dumps({"prompt": text}) for text in (CORPUS[2], "Как дела? " * 8)
        ),
        "self_instruct/user_oriented_instructions.jsonl": tasks,
        "self_instruct/seed_tasks.jsonl": tasks,
    }
    for name, text in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "data"


def test_the_comparison_from_a_folder_to_the_table(
    talking_llama: Path, data: Path, tmp_path: Path, monkeypatch, capsys
):
    import recovery

    work, out = tmp_path / "work", tmp_path / "recovery.json"
    arguments = [
        str(talking_llama),
        "--work",
        str(work),
        "--data",
        str(data),
        "--mixes",
        "q4_0",
        "--threads",
        "1",
        "-o",
        str(out),
    ]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recovery.py", *arguments, *more])
        recovery.main()
        return capsys.readouterr().out

    run("--steps", "texts,files")
    chats = json.loads((work / "texts" / "judge" / "chats.json").read_text(encoding="utf-8"))
    assert [chat["prompt"] for chat in chats] == [*CORPUS[:2], *CORPUS[4:6]]
    ours = work / "ours" / "10k" / "q4_0.gguf"
    ours.parent.mkdir(parents=True)
    shutil.copy(work / "made" / "llama.cpp imatrix" / "q4_0.gguf", ours)
    ours.with_suffix(".json").write_text(json.dumps({"tokens": 10_240}), encoding="utf-8")
    shown = run()
    found = json.loads(out.read_text(encoding="utf-8"))
    rows = {(row["tool"], row["judge"]): row for row in found["rows"]}
    judges = [judge["name"] for judge in found["judges"]]
    assert judges[:3] == ["wiki.test.raw", "held-out book", "held-out chats"]
    assert judges[3:] == ["code", "word problems", "other languages", "dialogue"]
    finer = "llama.cpp imatrix, q5_0 everywhere"
    assert {tool for tool, _ in rows} == {"float", "llama.cpp", "llama.cpp imatrix", finer, "edgedistill 10k"}
    assert len(rows) == 5 * 7
    assert found["model"]["name"] == talking_llama.name
    for judge in judges:
        plain = rows["llama.cpp", judge]
        assert 0 <= rows["float", judge]["kl"] < 1e-3 < plain["kl"]
        assert rows["edgedistill 10k", judge]["kl"] == rows["llama.cpp imatrix", judge]["kl"]
        assert rows["edgedistill 10k", judge]["tokens"] == 10_240
        assert rows["edgedistill 10k", judge]["recovered_kl"] == pytest.approx(
            1 - rows["edgedistill 10k", judge]["kl"] / plain["kl"]
        )
        same = [row for row in found["rows"] if row["mix"] == "q4_0" and row["tool"] != finer]
        assert {row["bytes_over_plain"] for row in same} == {0}
    assert shown.count("edgedistill 10k") == 7
    assert out.with_suffix(".svg").is_file()
    learned = (work / "texts" / "calibration.txt").read_text(encoding="utf-8")
    assert "<|im_start|>" in learned

    kept = work / "rows" / "edgedistill 10k.q4_0.json"
    row = json.loads(kept.read_text(encoding="utf-8"))
    row["quality"][judges[0]]["kl"] = 99.0
    kept.write_text(json.dumps(row), encoding="utf-8")
    (work / "tasks.json").write_text('{"rows": []}', encoding="utf-8")
    assert "99.0000" in run()  # a row that stands isn't measured again
    assert json.loads(out.read_text(encoding="utf-8"))["tasks"] == {"rows": []}
    shutil.copy(work / "made" / "llama.cpp" / "q4_0.gguf", ours)
    assert "99.0000" not in run("--only", "edgedistill*")  # the file is another one
    again = {(row["tool"], row["judge"]): row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    assert again["edgedistill 10k", judges[0]]["kl"] == again["llama.cpp", judges[0]]["kl"]


def test_an_unknown_step_is_refused(monkeypatch, capsys):
    import recovery

    monkeypatch.setattr(sys, "argv", ["recovery.py", "folder", "--work", "work", "--steps", "texts,train"])
    with pytest.raises(SystemExit):
        recovery.main()
    assert "--steps: 'train' must be one of texts, files, measure, table" in capsys.readouterr().err
