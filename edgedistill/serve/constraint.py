"""What an answer must follow, asked of a process that may die of it: see constraint_worker.

The server's process never reads a grammar or a schema itself. It gets masks over the vocabulary, and gives up on one
that comes too late.
"""

import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from edgedistill.serve.refused import Refused

WORKER = "edgedistill.serve.constraint_worker"
START_S = 60.0  # a vocabulary of 262,144 tokens takes seconds
FIRST_S = 10.0  # reading a grammar, and the first mask
NEXT_S = 5.0
TOO_LONG = "the grammar or JSON schema takes too long to follow; make it simpler"
NO_PROCESS = "the process that follows grammars and JSON schemas does not run; ask again later, or without one"
TOO_MUCH = "the grammar or JSON schema takes more memory or time than it may, or llama.cpp fails on it; make it simpler"


class ConstraintError(Exception):
    """A grammar that can't be followed further; the text says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        """The status is that of the answer; 400 where the grammar is at fault."""
        super().__init__(message)
        self.status = status


class Constraint:
    """Which tokens may come next in one answer. `poll` is asked until it gives the mask; `accept` begins the next."""

    def __init__(self, channel: socket.socket, life: socket.socket, vocab: int, first: dict[str, Any]) -> None:
        """Send what is to be followed. The process at the other end of `channel` dies when `life` is closed.

        Raises:
            ConstraintError: it has died.
        """
        self._channel, self._life, self._vocab = channel, life, vocab
        self._received = bytearray()
        channel.settimeout(FIRST_S)
        self._send(json.dumps(first).encode())
        self._deadline = time.monotonic() + FIRST_S
        self._mask: np.ndarray | None = None

    def fileno(self) -> int:
        """Of the socket, for select."""
        return self._channel.fileno()

    def wait(self) -> None:
        """Until the first mask has come.

        Raises:
            ConstraintError: it doesn't.
        """
        while self.poll() is None:
            select.select([self._channel], [], [], 0.1)

    def poll(self) -> np.ndarray | None:
        """The tokens that may come next, as [V] bool; None where that isn't known yet.

        Raises:
            ConstraintError: the process says why not, has died, or is late.
        """
        if self._mask is not None:
            return self._mask
        while select.select([self._channel], [], [], 0)[0]:
            try:
                data = self._channel.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise ConstraintError(TOO_MUCH)
            self._received += data
            if (message := self._message()) is not None:
                return self._read(message)
        if time.monotonic() > self._deadline:
            raise ConstraintError(TOO_LONG)
        return None

    def accept(self, token: int) -> None:
        """Go on with a token; the process computes the next mask from now on.

        Raises:
            ConstraintError: it has died.
        """
        self._mask = None
        self._deadline = time.monotonic() + NEXT_S
        self._send(str(token).encode())

    def close(self) -> None:
        """End the process, also in the middle of a computation."""
        self._channel.close()
        self._life.close()

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(struct.pack("<I", len(data)) + data)
        except OSError:
            raise ConstraintError(TOO_MUCH) from None

    def _message(self) -> bytes | None:
        if len(self._received) < 4:
            return None
        (size,) = struct.unpack_from("<I", self._received)
        if len(self._received) < 4 + size:
            return None
        message = bytes(self._received[4 : 4 + size])
        del self._received[: 4 + size]
        return message

    def _read(self, message: bytes) -> np.ndarray:
        if message[:1] != b"m":
            raise ConstraintError(message[1:].decode("utf-8", errors="replace"))
        bits = np.unpackbits(np.frombuffer(message, np.uint8, offset=1), bitorder="little")[: self._vocab]
        mask = self._mask = bits.astype(bool)
        return mask


def refusal(given: dict[str, Any], error: ConstraintError) -> Refused:
    """What a request is told whose constraint can't be followed."""
    where = "grammar" if "gbnf" in given else "response_format" if "schema" in given else "tools"
    return Refused(str(error), error.status, param=where)


class ConstraintService:
    """Starts the worker at the first constraint, and again where it has died."""

    def __init__(self, path: str, vocab: int, context: int) -> None:
        """For a GGUF file; `context` is the tokens of a request with its answer."""
        self._path, self._vocab, self._context = path, vocab, context
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None where none has been started."""
        return self._process.pid if self._process else None

    def begin(self, given: dict[str, Any]) -> Constraint:
        """What an answer must follow; its first mask is still to come.

        Raises:
            ConstraintError: the process for it doesn't start, or has died.
        """
        ours, theirs = socket.socketpair()
        life, their_life = socket.socketpair()
        try:
            with theirs, their_life, self._lock:
                self._hand_over([theirs.fileno(), their_life.fileno()])
            return Constraint(ours, life, self._vocab, given | {"context": self._context})
        except BaseException:
            ours.close()
            life.close()
            raise

    def open(self, given: dict[str, Any]) -> Constraint:
        """What an answer must follow, once its first mask is there.

        Raises:
            Refused: it can't be followed.
        """
        constraint = None
        try:
            constraint = self.begin(given)
            constraint.wait()
        except ConstraintError as error:
            if constraint is not None:
                constraint.close()
            raise refusal(given, error) from None
        return constraint

    def close(self) -> None:
        """End the worker, and with it what it has forked."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None

    def _hand_over(self, fds: list[int]) -> None:
        """Send the ends of two sockets to a worker that runs.

        Raises:
            ConstraintError: none does; what there was of it has ended.
        """
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._start()
            assert self._control is not None
            socket.send_fds(self._control, [b"."], fds)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise ConstraintError(NO_PROCESS, 503) from None
            raise

    def _start(self) -> None:
        """Start the worker; returns when it has loaded the vocabulary.

        Raises:
            OSError: it isn't there in START_S, or has died.
        """
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(theirs.fileno()), self._path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._control.settimeout(START_S)
        if not self._control.recv(1):
            raise ConnectionResetError
