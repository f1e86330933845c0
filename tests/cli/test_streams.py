"""The command's streams: closed, full, with nobody at the other end; and what a name may do to a terminal."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgedistill.cli.streams import OURS, SafeStream
from edgedistill.errors import RunError
from tests.cli.terminal import ROOT, Terminal
from tests.runtimes.conftest import write_gguf

FULL = Path("/dev/full")
MODEL_WORDS = ["--target", "laptop-cpu", "--recipe", "tiny"]
CLIPBOARD = "\x1b]52;c;QQ==\x07"


def edgedistill(*words: object, closed: Sequence[int] = (), **streams) -> subprocess.CompletedProcess[str]:
    def close() -> None:
        for number in closed:
            os.close(number)

    command = [sys.executable, "-m", "edgedistill", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, text=True, preexec_fn=close, **{"stderr": subprocess.PIPE, **streams})


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2), (2,)], ids=str)
def test_closed_streams_are_nobody_who_reads_or_types(closed):
    done = edgedistill("targets", "list", closed=closed, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert ("laptop-cpu" in done.stdout) == (1 not in closed)
    assert done.stderr == ""


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["targets", "list"], ["--help"], ["plan", "--help"]], ids=str)
def test_an_output_that_is_full_is_one_sentence(words):
    with FULL.open("w") as full:
        done = edgedistill(*words, stdout=full)
    assert done.returncode == 1
    assert (
        done.stderr
        == "Error: the output can't be written (No space left on device); name another file, or free some disk\n"
    )


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_log_that_is_full_ends_no_work():
    with FULL.open("w") as full:
        done = edgedistill("targets", "show", "nothing", stderr=full, stdout=subprocess.PIPE)
    assert done.returncode == 2


def test_a_reader_that_left_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = edgedistill("targets", "list", stdout=write)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_chat_with_closed_input_ends(talking_llama: Path, tmp_path: Path):
    model = write_gguf(talking_llama, tmp_path / "talking.gguf")
    done = edgedistill("chat", model, closed=(0,), stdout=subprocess.PIPE)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


class Written:
    """A stream that keeps what it is given."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"name{CLIPBOARD}.gguf", "name␛]52;c;QQ==␇.gguf"),
        ("a\tb\r\n", "a\tb\r\n"),
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        ("\r\x1b[2K\x1b[1Abar\x1b[?25l", "\r\x1b[2K\x1b[1Abar\x1b[?25l"),
        ("\x1bP+q\x9b5n", "␛P+q⟨U+009B⟩5n"),
        ("\u202egnp", "⟨U+202E⟩gnp"),
    ],
)
def test_control_characters_lose_their_power_but_those_of_our_own_colours_and_bars(text: str, shown: str):
    written = Written()
    SafeStream(written, needed=True).write(text)
    assert written.text == shown
    assert OURS.sub("", shown).isprintable()


def failing(error: Exception) -> Callable[[str], int]:
    class Stream:
        def write(self, text: str) -> int:
            raise error

    return Stream()


def test_what_is_needed_and_what_is_not(tmp_path):
    SafeStream(failing(OSError(5, "Input/output error")), needed=False).write("x")
    with pytest.raises(RunError, match=r"the output can't be written \(Input/output error\)"):
        SafeStream(failing(OSError(5, "Input/output error")), needed=True).write("x")
    with pytest.raises(BrokenPipeError):
        SafeStream(failing(BrokenPipeError()), needed=True).write("x")


def test_a_name_reaches_no_terminal_as_it_is(tiny_llama: Path, tmp_path: Path):
    model = tmp_path / f"evil{CLIPBOARD}"
    model.symlink_to(tiny_llama)
    with Terminal("plan", model, *MODEL_WORDS) as terminal:
        terminal.wait_for("laptop-cpu")
        assert "evil␛]52" in terminal.shown
        assert CLIPBOARD not in terminal.shown
