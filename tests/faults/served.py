"""A real `edgedistill serve` process, what is sent to it through sockets, and what is wrong with its answers."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).parents[2]
READY_S = 120.0
LIMIT_S = 60.0  # for any answer
SOON_S = 5.0  # for an ordinary request between hostile ones, on a machine with much to do
MORE_BYTES = 1 << 30  # of memory, all its processes together, that hostile requests may leave behind
HELLO = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 4}
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


class Served:
    """`with Served(path) as server: server.exchange(request(...))`."""

    def __init__(self, path: Path) -> None:
        """Start it and wait until it answers."""
        self._seen = 0  # of the log
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed in __exit__)
        words = ["serve", str(path), "--port", "0", "--threads", "1", "--json", "--verbose"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgedistill", *words],
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log()
        self.port = int(json.loads(line)["url"].split(":")[2].removesuffix("/v1"))
        self.ask()
        self._bytes = self.memory_bytes()

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)

    def exchange(self, data: bytes) -> bytes:
        """Send bytes and read until the server closes, or an answer is whole; b"" where it closed without one."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it said may still be there
                sock.sendall(data)
            return read_answer(sock, data.startswith(b"HEAD "))

    def ask(self) -> float:
        """An ordinary request; the seconds until its answer.

        Raises:
            AssertionError: it isn't answered.
        """
        started = time.monotonic()
        answer = self.exchange(request("POST", CHAT, json.dumps(HELLO).encode()))
        assert status_of(answer) == 200, answer[:300]
        return time.monotonic() - started

    def memory_bytes(self) -> int:
        """Of all its processes that live."""
        total = 0
        for process in [psutil.Process(self._process.pid), *self._children()]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def trouble(self) -> str | None:
        """What is wrong with the server itself, after requests whose answers were looked at."""
        if self._process.poll() is not None:
            return f"the server ended: {self.log()[-200:]}"
        try:
            seconds = self.ask()
        except (OSError, AssertionError) as error:
            return f"an ordinary request isn't answered: {error}"
        if seconds > SOON_S:
            return f"an ordinary request took {seconds:.0f} s"
        more = self.memory_bytes() - self._bytes
        if more > MORE_BYTES:
            return f"it holds {more >> 20} MiB more than at first"
        return self._log_trouble()

    def stop(self) -> str | None:
        """End it by a signal; what is wrong with how it ends."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            return "it doesn't end on SIGTERM"
        return f"it ended with exit code {code}" if code else self._log_trouble()

    def _log_trouble(self) -> str | None:
        """What is wrong with what it has logged since the last time."""
        log = self.log()
        new, self._seen = log[self._seen :], len(log)
        return log_trouble(new)

    def log(self) -> str:
        """What it has logged."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)

    def __enter__(self) -> "Served":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """An HTTP request; a header of None is left out."""
    lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= headers or {}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + body


def read_answer(sock: socket.socket, head_alone: bool = False) -> bytes:
    """The bytes of an answer: by its length, to the last chunk, or until the server closes."""
    data = b""
    while not whole(data, head_alone):
        try:
            part = sock.recv(1 << 16)
        except ConnectionResetError:
            break
        if not part:
            break
        data += part
    return data


def whole(data: bytes, head_alone: bool) -> bool:
    """Whether an answer has come to its end."""
    head, end, body = data.lower().partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    if head_alone or head.startswith(b"http/1.1 204"):
        return True
    if length is not None:
        return len(body) >= int(length[1])
    return b"transfer-encoding: chunked" in head and body.endswith(b"0\r\n\r\n")


def status_of(answer: bytes) -> int | None:
    """The status of an answer; None where there is none."""
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 2 and words[0].startswith(b"HTTP/") else None


def answer_trouble(answer: bytes, statuses: tuple[int, ...] = (), head_alone: bool = False) -> str | None:
    """What is wrong with an answer: it must be a success, or a refusal in OpenAI's form.

    Args:
        statuses: those that are right; () for all below 500.
        head_alone: whether it has no body, whatever its head says.
    """
    status, (head, _, body) = status_of(answer), answer.partition(b"\r\n\r\n")
    if status is None:
        return f"no answer: {answer[:60]!r}"
    if status >= 500 or (statuses and status not in statuses):
        return f"status {status}: {body[:150]!r}"
    if status < 400 or head_alone:
        return None
    if b"content-type: application/json" not in head.lower():
        return f"status {status} that isn't JSON: {body[:100]!r}"
    try:
        error, _ = json.JSONDecoder().raw_decode(body.decode())  # answers to what came behind it may follow
        error = error["error"]
        right = set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
    except (ValueError, KeyError, TypeError):
        right = False
    return None if right else f"status {status} that isn't in OpenAI's form: {body[:100]!r}"


def log_trouble(log: str) -> str | None:
    """A traceback or another sign of a fault in a log."""
    for sign in ("Traceback", "Error: ", "Exception"):
        place = log.find(sign)
        if place >= 0:
            return f"its log has {log[max(0, place - 50) : place + 200]!r}"
    return None
