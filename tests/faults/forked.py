"""One command in a forked process: everything is imported once, so that thousands of trials take minutes.

A trial has a deadline and a limit of memory, and its children die with it.
"""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 16 << 30  # of address space, most of which is libraries
LIMIT_S = 120.0
PRELOADED = (
    "torch",
    "transformers",
    "gguf",
    "onnx",
    "edgedistill.cli.main",
    "edgedistill.export.files",
    "edgedistill.measure.bench",
    "edgedistill.pipeline.build",
    "edgedistill.recover.mix_training",
    "edgedistill.report",
    "edgedistill.teach.rounds",
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: a signal; None: past its deadline), what it said, its seconds."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        """Its last word on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def is_sentence(self) -> bool:
        """Whether it refused in a sentence."""
        return "Traceback" not in self.err and any(line.startswith("Error: ") for line in self.err.splitlines())

    def trouble(self, codes: Sequence[int] = (0, 2, 3)) -> str | None:
        """What is wrong with it, whatever the input was; None where nothing is."""
        if self.code is None:
            return f"past its deadline of {self.seconds:.0f} s"
        if "Traceback" in self.err:
            return f"traceback: {self.said}"
        if self.code not in codes:
            return f"exit code {self.code}: {self.said}"
        return None if self.code == 0 or self.is_sentence else f"exit code {self.code} without a sentence: {self.said}"


def preload() -> None:
    """Import what commands import, once."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)


def run(
    words: Sequence[object],
    typed: str = "",
    limit_s: float = LIMIT_S,
    meanwhile: Callable[[int], bool] | None = None,
    sent: int = signal.SIGKILL,
) -> Outcome:
    """Run `edgedistill WORDS`.

    Args:
        typed: its standard input.
        limit_s: its deadline.
        meanwhile: called with the process id every few milliseconds; once it returns True, the process gets
            `sent`.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(typed.encode())
        given.seek(0)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child([str(word) for word in words], (given.fileno(), out.fileno(), err.fileno()))
        status, past = None, False
        while status is None:
            ended, raw = os.waitpid(child, os.WNOHANG)
            if ended:
                status = raw
                break
            if meanwhile is not None and meanwhile(child):
                meanwhile = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, sent)
            if time.monotonic() - started > limit_s:
                past = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            time.sleep(0.003)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # runtimes that outlived it
        out.seek(0)
        err.seek(0)
        code = None if past else os.waitstatus_to_exitcode(status)
        said = (stream.read().decode(errors="replace") for stream in (out, err))
        return Outcome(code, *said, time.monotonic() - started)


def _child(words: list[str], streams: tuple[int, int, int]) -> None:
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["edgedistill", *words]
        from edgedistill.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def fresh_copy(folder: Path, place: Path) -> Path:
    """A copy of a folder to spoil."""
    import shutil

    if place.exists():
        shutil.rmtree(place)
    return Path(shutil.copytree(folder, place, symlinks=True))
