"""The parent's side of a runtime: it starts the child process, sends requests, and reports its death in one sentence.

A bad model file can abort the process that loads it (a C++ exception inside llama.cpp, a failed assertion), so only a
child ever loads one. Threads are set explicitly, and OpenMP threads sleep while they wait: spinning ones made two
threads on two busy cores 10 to 30 times slower.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from edgedistill.environment import child_environment
from edgedistill.errors import InputError, RunError, RuntimeDiedError
from edgedistill.runtimes.protocol import Arrays, Request, Response, read_response, write_request

QUIT_S = 5.0  # time for a child to leave after its stdin closed, before it is killed
LAST_LINES_BYTES = 4096
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


# Threads wait asleep, after a short spin. Without any spin two threads decode at a third of the speed, because they
# meet hundreds of times a token; with OpenMP's own long one, waiting threads take cores from those that have work.
# Where llama.cpp aborts, ggml would start gdb for a backtrace, whose words would be the last that are quoted.
THREADING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "GGML_NO_BACKTRACE": "1"}


class Child:
    """One child process that runs a worker module, such as llama_worker, on one model file."""

    def __init__(
        self,
        module: str,
        subject: Path,
        threads: int,
        fds: Sequence[int] = (),
        on_line: Callable[[str], bool] | None = None,
    ) -> None:
        """Start `python -m module`.

        Args:
            subject: the file or folder that error messages name.
            fds: open files that the child gets under the same numbers.
            on_line: called in a thread with each line that the child writes to stderr; returns whether an error should
                quote the line, should the child die after it.
        """
        environment = child_environment(**THREADING, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS="1")
        self.subject = subject
        self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if on_line else self._log,
            env=environment,
            pass_fds=fds,
            cwd=PACKAGE_PARENT,  # `-m` imports from there, and not from whatever lies in the user's folder
        )
        self._listener: threading.Thread | None = None
        if on_line:
            assert self._process.stderr is not None
            self._listener = threading.Thread(
                target=_listen, args=(self._process.stderr, self._log, on_line), daemon=True
            )
            self._listener.start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._from: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._streaming = False
        self._finalizer = weakref.finalize(self, _end, self._process, self._to, self._from, self._log)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def call(self, op: str, **arguments: Any) -> tuple[Any, Arrays]:
        """Ask for one answer: its result and arrays.

        Raises:
            InputError, RunError: the child says why it can't.
            RuntimeDiedError: the child ended without an answer.
        """
        self._request(op, arguments)
        response, arrays = self._read(op)
        return response.result, arrays

    def stream(self, op: str, **arguments: Any) -> Iterator[tuple[Any, Arrays]]:
        """Ask for a stream and yield its answers; the child works one answer ahead. Closing the iterator stops it.

        Raises:
            As `call`.
        """
        self._request(op, arguments)
        self._streaming = True
        more = True
        stopped = False
        try:
            while True:
                response, arrays = self._read(op)
                more = response.more
                if not more:
                    return
                stopped = True
                yield response.result, arrays
                self._send(op, Request("next"))
                stopped = False
        finally:
            self._streaming = False
            if more and stopped and self._process.poll() is None:
                with contextlib.suppress(RunError):
                    self._send(op, Request("stop"))
                    self._read(op)

    def close(self) -> None:
        """End the child and reap it. Harmless when called twice."""
        self._finalizer()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, op: str, arguments: Mapping[str, object]) -> None:
        if not self._finalizer.alive:
            raise RunError(f"{self.subject.name}: its runtime was closed before '{op}'")
        if self._streaming:
            raise RunError(
                f"{self.subject.name}: '{op}' was asked for within an answer that still streams; read or "
                "close that first"
            )
        self._send(op, Request(op, arguments))

    def _send(self, op: str, request: Request) -> None:
        try:
            write_request(self._to, request)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(op) from None

    def _read(self, op: str) -> tuple[Response, Arrays]:
        try:
            response, arrays = read_response(self._from)
        except (EOFError, ConnectionResetError):
            raise self._death(op) from None
        except BaseException:  # Ctrl-C within a frame: the rest of the frame would be read as the next answer
            self.close()
            raise
        if response.error is None:
            return response, arrays
        error = InputError if response.kind == "input" else RunError
        raise error(f"{self.subject.name}: {response.error}")

    def _death(self, op: str) -> RuntimeDiedError:
        try:
            code = self._process.wait(QUIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._listener:
            self._listener.join(QUIT_S)
        how = f"with exit code {code}"
        if code < 0:
            try:
                how = f"by {signal.Signals(-code).name}"
            except ValueError:
                how = f"by signal {-code}"
        last = _last_line(self._log)
        said = f"; it last said: {last}" if last else ""
        hint = " (the system may have run out of memory)" if code == -signal.SIGKILL else ""
        return RuntimeDiedError(f"{self.subject}: the runtime's process ended {how} during '{op}'{hint}{said}")


def _listen(lines: IO[bytes], log: BinaryIO, on_line: Callable[[str], bool]) -> None:
    """Pass a child's lines on. The log keeps only the last line that may be quoted, since a server's log grows without
    end.
    """
    with lines, contextlib.suppress(ValueError):  # the log is closed: so is the child
        for line in lines:
            if on_line(line.decode("utf-8", errors="replace").rstrip("\r\n")) and line.strip():
                log.seek(0)
                log.truncate()
                log.write(line)


def _last_line(log: BinaryIO) -> str:
    """The last line of the child's stderr that isn't blank, without control characters."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LAST_LINES_BYTES))
    lines = [line.strip() for line in log.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    return "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else ""


def _end(process: "subprocess.Popen[bytes]", to: BinaryIO, back: BinaryIO, log: BinaryIO) -> None:
    for stream in (to, back):
        with contextlib.suppress(OSError):
            stream.close()
    try:
        process.wait(QUIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
