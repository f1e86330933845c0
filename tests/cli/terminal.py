"""A command in a real terminal: a pseudo terminal of its own size, keys sent, what it shows read."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The terminal becomes the process's own, so that Ctrl-C reaches it; where the tests run in the background, a shell has
# it ignored.
CODE = (
    "import fcntl, signal, termios; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); from edgedistill.cli.main import main; main()"
)


class Terminal:
    """`with Terminal("chat", path) as terminal: terminal.type("Hi"); terminal.wait_for("> ")`."""

    def __init__(self, *arguments: object, columns: int = 80, stdout: int | None = None, **environment: str) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *map(str, arguments)],
            stdin=side,
            stdout=side if stdout is None else stdout,
            stderr=side,
            start_new_session=True,
            env={**variables, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        )
        os.close(side)
        self.shown = ""
        self._from = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)

    def send(self, keys: str) -> None:
        """Press keys."""
        os.write(self._main, keys.encode())

    def type(self, line: str) -> None:
        """Type a line."""
        self.send(line + "\r")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """What is shown up to and with a text, since the last time that something was waited for."""
        deadline = time.monotonic() + seconds
        while (at := self.shown.find(text, self._from)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown in {seconds} s; shown was {self.shown!r}"
            more = self._read(left)
            assert more is not False, f"the command ended without {text!r}; shown was {self.shown!r}"
        start, self._from = self._from, at + len(text)
        return self.shown[start : self._from]

    def end(self, seconds: float = 60) -> int:
        """Read until the command has ended; its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool | None:
        """Take what is shown next; False when there will be no more, None when nothing came in time."""
        ready, _, _ = select.select([self._main], [], [], seconds)
        if not ready:
            return None
        data = b""
        with contextlib.suppress(OSError):  # Linux says so when the other side is closed
            data = os.read(self._main, 65536)
        # A read may end within a character.
        self._bytes = getattr(self, "_bytes", b"") + data
        self.shown = self._bytes.decode("utf-8", errors="ignore").replace("\r\n", "\n")
        return bool(data)
