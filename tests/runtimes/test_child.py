"""A child that dies, a file that kills it, a parent that is gone: one sentence each, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.errors import InputError, RunError, RuntimeDiedError
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.sampling import BatchSettings
from tests.runtimes.conftest import write_gguf


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process that isn't our child has ended (or waits as a zombie for a reaper that isn't us)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_killed_child_is_one_sentence(gguf_file):
    with LlamaCpp(gguf_file, threads=1, context=64) as model:
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(RuntimeDiedError) as caught:
            model.tokenize("hello")
        assert str(caught.value) == (
            f"{gguf_file}: the runtime's process ended by SIGKILL during 'tokenize' (the system may have run "
            "out of memory)"
        )
        with pytest.raises(RuntimeDiedError):
            model.tokenize("again")


def test_child_killed_within_a_stream_is_one_sentence(gguf_file):
    with LlamaCpp(gguf_file, threads=1, context=200) as model:
        stream = model.generate_stream([[5]] * 40, 100, BatchSettings(stop_ids=()))
        next(stream)
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(RuntimeDiedError, match="ended by SIGKILL during 'generate_batch'"):
            list(stream)


def test_file_that_aborts_llama_cpp_is_one_sentence(hf_folder, tmp_path):
    """A vocabulary that isn't sentencepiece's, declared as such, throws a C++ exception out of llama.cpp."""
    bad = write_gguf(hf_folder, tmp_path / "bad.gguf", model="llama")
    with pytest.raises(RunError) as caught, LlamaCpp(bad, threads=1, context=64) as model:
        model.tokenize("hello\n")
    assert type(caught.value) is RuntimeDiedError
    assert f"{bad}: the runtime's process ended by SIGABRT during 'tokenize'; it last said: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_file_is_one_sentence(gguf_file, tmp_path):
    short = tmp_path / "short.gguf"
    short.write_bytes(gguf_file.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"short.gguf: tensor '.*' ends at byte \d+, the file at byte \d+") as caught:
        LlamaCpp(short, threads=1)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_gguf_start_no_process(tmp_path):
    text = tmp_path / "notes.gguf"
    text.write_text("hello")
    with pytest.raises(
        InputError, match=r"notes.gguf: it isn't a GGUF file, which begins with the letters GGUF; name a .gguf file"
    ):
        LlamaCpp(text)
    with pytest.raises(InputError, match=r"absent.gguf: there is no such file; name a .gguf file"):
        LlamaCpp(tmp_path / "absent.gguf")


def test_nothing_is_left_after_close(gguf_file):
    model = LlamaCpp(gguf_file, threads=1, context=64)
    pid = model.pid
    model.close()
    model.close()
    assert gone(pid, 0.2)
    with pytest.raises(RunError, match="tiny.gguf: its runtime was closed before 'tokenize'"):
        model.tokenize("a")


def test_an_interrupt_within_a_frame_ends_the_child(gguf_file, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with LlamaCpp(gguf_file, threads=1, context=64) as model:
        monkeypatch.setattr("edgedistill.runtimes.child.read_response", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.tokenize("a")
        assert gone(model.pid, 0.2)
        with pytest.raises(RunError, match="its runtime was closed"):
            model.tokenize("a")


def test_a_second_question_within_a_stream_is_refused(llama):
    stream = llama.chat([{"role": "user", "content": "a"}], max_tokens=20)
    next(stream)
    with pytest.raises(RunError, match="'tokenize' was asked for within an answer that still streams"):
        llama.tokenize("a")
    stream.close()
    assert llama.tokenize("a")


PARENT = """
import sys, time
from pathlib import Path
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.sampling import BatchSettings
model = LlamaCpp(Path(sys.argv[1]), threads=1, context=256, parallel=2)
print(model.pid, flush=True)
if sys.argv[2] == "busy":
    list(model.generate_stream([[5]] * 100000, 200, BatchSettings(stop_ids=())))
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_child_ends_when_its_parent_is_killed(gguf_file, state):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(gguf_file), state], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    with parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        assert not gone(child, 0.05)
        parent.kill()
    assert gone(child)
