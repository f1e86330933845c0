"""Where our commands write, and that they open no connection, as strace sees them and all that they start."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import RECIPE
from tests.e2e.traced import Trace, parse, trace, why_not
from tests.faults.material import compare_words, export_words, recover_words

ROOT = Path(__file__).parents[2]


class Place:
    """A user's folders, all new, and commands traced in them."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out"
        self.cache, self.temporary, self.home, self.here = (root / name for name in ("cache", "tmp", "home", "here"))
        for folder in (self.temporary, self.home, self.here):
            folder.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")},
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "EDGEDISTILL_CACHE": str(self.cache),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",  # an installed package has its bytecode already
        }

    def run(self, words, **more) -> Trace:
        """`edgedistill WORDS`."""
        command = [sys.executable, "-m", "edgedistill", *map(str, words)]
        return trace(command, self.root / "trace", self.environment, self.here, **more)

    def written_outside(self, done: Trace) -> list[str]:
        """What lies in none of the folders that we promise."""
        return done.written_outside(self.out, self.cache, self.temporary)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return Place(tmp_path)


def test_strangers_are_seen(place: Place):
    """What the other tests look for is found where it is."""
    code = (
        "import os, pathlib, socket, subprocess, sys\n"
        "os.chdir(os.environ['HOME'])\n"
        "pathlib.Path('kept.json').write_text('')\n"
        "pathlib.Path(os.environ['TMPDIR'], 'mine').write_text('')\n"
        "subprocess.run([sys.executable, '-c', 'import os; os.mkdir(\"of a child\")'])\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 53))\n"
    )
    done = trace([sys.executable, "-c", code], place.root / "trace", place.environment, place.here)
    assert place.written_outside(done) == [str(place.home / "kept.json"), "of a child"]
    assert place.temporary / "mine" in done.written
    assert any("192.0.2.1" in call for call in done.internet)


def test_names_are_read_as_the_process_meant_them():
    lines = [
        '7 openat(AT_FDCWD</a/b>, "../c", O_WRONLY|O_CREAT, 0666 <unfinished ...>',
        '7 openat(AT_FDCWD</a/b>, "read", O_RDONLY) = 3</a/b/read>',
        '7 renameat(5</d>, "e", AT_FDCWD</a>, "/f") = 0',
        "7 socket(AF_UNIX, SOCK_STREAM, 0) = 4<socket:[1]>",
    ]
    found = parse(lines)
    assert found.written == {Path("/a/c"), Path("/d/e"), Path("/f")}
    assert found.internet == ()


def compile_words(model: Path, out: Path) -> list[object]:
    return ["compile", model, "--target", "laptop-cpu", "--recipe", RECIPE, "-o", out]


@pytest.mark.slow
@pytest.mark.parametrize("words", [compile_words, recover_words, compare_words, export_words])
def test_what_makes_files_writes_where_it_says_and_connects_to_nobody(place: Place, talking_llama: Path, words):
    done = place.run(words(talking_llama, place.out))
    assert done.code == 0, done.err
    assert done.written
    assert place.written_outside(done) == []
    assert done.internet == ()


@pytest.mark.slow
def test_what_reads_a_run_writes_nothing_and_connects_to_nobody(place: Place, compiled: Path, talking_llama: Path):
    gguf, onnx = next((compiled / "bundle").glob("*q4_0.gguf")), next((compiled / "bundle").glob("onnx-*"))
    text = place.root / "text.txt"
    text.write_text("The old cat sees the red fox. " * 20)
    short = ["--prefill", 16, "--decode", 8, "--repetitions", 1, "--threads", 1]
    for words, typed in (
        (["plan", talking_llama, "--target", "laptop-cpu", "--recipe", RECIPE], None),
        (["verify", compiled], None),
        (["bench", gguf, "--text", text, *short], None),
        (["bench", onnx, *short], None),
        (["chat", gguf, "--max-tokens", 8], "The old cat\n"),
        (["chat", onnx, "--max-tokens", 8], "The old cat\n"),
        (["runs", "show", compiled], None),
        (["doctor"], None),
    ):
        done = place.run(words, typed=typed)
        assert done.code == 0, done.err
        assert done.written_outside(place.cache, place.temporary) == [], words
        assert done.internet == (), words


@pytest.mark.slow
def test_serve_talks_to_those_who_ask_it_and_to_nobody_else(place: Place, compiled: Path):
    def ask(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        body = json.dumps({"messages": [{"role": "user", "content": "The old cat"}], "max_tokens": 8}).encode()
        request = urllib.request.Request(f"{ready['url']}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["choices"]
        os.kill(ready["pid"], signal.SIGTERM)

    done = place.run(["serve", compiled, "--port", 0, "--threads", 1, "--json"], meanwhile=ask)
    assert "Traceback" not in done.err
    assert done.written_outside(place.cache, place.temporary) == []
    addresses = [call for call in done.internet if "sin_addr" in call or "inet_pton" in call]
    assert any(call.startswith("bind") for call in addresses)
    assert [call for call in addresses if '"127.0.0.1"' not in call] == []
