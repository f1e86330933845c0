"""A verifier of the user's: real programs, what they are told, and how they may end."""

import sys
import time
from pathlib import Path

import pytest

from edgedistill.config.conversation import Message
from edgedistill.config.task_data import Labelled
from edgedistill.errors import InputError, RunError
from edgedistill.measure.verifier import Verifier

ROW = Labelled((Message("system", "Count."), Message("user", "2 + 2?")), "4", "rows.jsonl:1")


def program(tmp_path: Path, lines: str, *arguments: str, seconds: float = 20.0) -> Verifier:
    path = tmp_path / "check.py"
    path.write_text(f"import json, os, sys, time\nasked = json.load(sys.stdin)\n{lines}\n")
    return Verifier((sys.executable, str(path), *arguments), seconds)


def test_it_is_told_all_of_the_row_and_says_by_its_exit_code(tmp_path: Path):
    verifier = program(tmp_path, "sys.exit(0 if int(asked['answer']) == int(asked['expected']) else 1)")
    assert verifier.says_right(ROW, " 4 ")
    assert not verifier.says_right(ROW, "5")
    assert not verifier.says_right(ROW, "four")  # Python ends with 1 after an exception
    whole = program(tmp_path, "open(sys.argv[1], 'w').write(json.dumps(asked))", str(tmp_path / "told.json"))
    assert whole.says_right(ROW, "é")
    assert (tmp_path / "told.json").read_text() == (
        '{"prompt": "2 + 2?", "answer": "\\u00e9", "expected": "4", "messages": '
        '[{"role": "system", "content": "Count."}, {"role": "user", "content": "2 + 2?"}]}'
    )


def test_many_answers_are_checked_in_their_order(tmp_path: Path):
    verifier = program(tmp_path, "sys.exit(int(asked['answer']) % 2)")
    seen: list[None] = []
    assert verifier.all([ROW] * 9, [str(n) for n in range(9)], lambda: seen.append(None)) == [
        n % 2 == 0 for n in range(9)
    ]
    assert len(seen) == 9


def test_it_gets_no_secrets_no_shell_and_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    checks = "sys.exit('secret' in os.environ.values() or os.listdir('.') != [] or sys.argv[1] != '$(touch here); *')"
    assert program(tmp_path, checks, "$(touch here); *").says_right(ROW, "4")


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path):
    started = tmp_path / "late"
    late = f"import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 3; touch {started}'])\ntime.sleep(60)"
    begun = time.monotonic()
    assert not program(tmp_path, late, seconds=1.0).says_right(ROW, "4")
    assert time.monotonic() - begun < 30
    time.sleep(max(0.0, 4.0 - (time.monotonic() - begun)))
    assert not started.exists()


def test_one_that_never_reads_is_no_trouble(tmp_path: Path):
    path = tmp_path / "deaf.py"
    path.write_text("import sys\nsys.exit(0)\n")
    assert Verifier((sys.executable, str(path)), 20.0).says_right(ROW, "x" * 1_000_000)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "sys.stderr.write('no such\\x1b[31m table\\n'); sys.exit(3)",
            "ended with exit code 3; 0 means right and 1 wrong;",
        ),
        ("os.kill(os.getpid(), 9)", "ended by signal 9; 0 means right and 1 wrong"),
    ],
)
def test_one_that_fails_is_an_error_and_no_wrong_answer(tmp_path: Path, lines: str, said: str):
    with pytest.raises(RunError) as caught:
        program(tmp_path, lines).says_right(ROW, "4")
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_program_that_can_not_be_started_is_an_error():
    with pytest.raises(RunError, match="ended with exit code 127"):
        Verifier(("/no/such/program",), 20.0).says_right(ROW, "4")


def test_one_that_calls_the_rows_own_answer_wrong_is_refused_beforehand(tmp_path: Path):
    program(tmp_path, "sys.exit(0)").accept(ROW)
    with pytest.raises(
        InputError, match=r"ended with 1 on the right answer of rows\.jsonl:1; it must exit with 0 there"
    ):
        program(tmp_path, "sys.exit(1)").accept(ROW)
    with pytest.raises(InputError, match=r"took too long on the right answer"):
        program(tmp_path, "time.sleep(60)", seconds=0.5).accept(ROW)
