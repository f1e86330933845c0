"""A GGUF file served over HTTP: the parent's side. It binds the address, starts the child that answers there, and ends
it.

The address is bound here, so that a port in use is an error before a model is loaded; the child inherits the socket.
"""

import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from errno import EADDRINUSE
from pathlib import Path
from types import TracebackType
from typing import Any

from edgedistill.errors import InputError, RunError
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.child import Child
from edgedistill.runtimes.llama import check_gguf

REQUEST = "request: "  # begins the child's line about a request
SERVER_WORKER = "edgedistill.serve.server_worker"
READY_S = 30.0
# Bound to all of a machine's addresses -> one at which it reaches itself.
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class ServeSettings:
    """How a file is served.

    Attributes:
        host: the address to bind.
        port: 0 takes a free one.
        threads: of the runtime.
        context: tokens of a conversation with its answer; None takes what the model was trained for, 4096 at most.
        name: what the model is called; the file's name without its ending by default.
        api_key: what clients must send; None asks for nothing.
        origins: web pages of other machines that may ask, see server_front.
        hosts: names of this server beside localhost, in lower case.
        parallel: answers at once; each has a context of its own.
        defaults: sampling and system message of a request that names none; those of `chat` for a bare file.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    threads: int = 2
    context: int | None = None
    name: str | None = None
    api_key: str | None = None
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()
    parallel: int = 4
    defaults: ChatDefaults = ChatDefaults()


@dataclass(frozen=True)
class Served:
    """What the child loaded."""

    name: str  # that clients call the model by
    version: str
    context: int
    trained: int  # tokens that the model was trained for
    has_template: bool


class ModelServer:
    """`with ModelServer(Path("model.gguf"), ServeSettings(port=0)) as server: server.start(); server.wait()`.

    Leaving the `with` ends the child.
    """

    def __init__(
        self,
        path: Path,
        settings: ServeSettings,
        on_request: Callable[[str], None] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Bind the address and load the file.

        Args:
            path: a .gguf file.
            settings: how it is served.
            on_request: called in a thread with a line for each request once `start` is done: "GET /v1/models 200, 0.1
                s".
            on_line: called so with each other line that the server logs.
        Raises:
            InputError: the address can't be had, or the file is no GGUF or has a broken chat template.
            RunError, RuntimeDiedError: llama.cpp refuses the file or dies of it.
        """
        check_gguf(path)
        self.api_key = settings.api_key
        self._on_request, self._on_line = on_request, on_line
        self._checked = False  # whether the request that `start` makes was logged
        self._socket = bind(settings.host, settings.port)
        self.host, self.port = self._socket.getsockname()[:2]
        try:
            listener = self._socket.fileno()
            self._child = Child(SERVER_WORKER, path, settings.threads, fds=[listener], on_line=self._hear)
        except BaseException:
            self._socket.close()
            raise
        name = settings.name or path.stem
        try:
            facts = self._child.call(
                "load",
                path=str(path.resolve()),
                name=name,
                settings={**asdict(settings), "origins": list(settings.origins), "hosts": list(settings.hosts)},
            )[0]
        except BaseException:
            self.close()
            raise
        self.served = Served(name, **facts)

    @property
    def pid(self) -> int:
        """Process id of the child that answers."""
        return self._child.pid

    @property
    def url(self) -> str:
        """Where the API is: http://127.0.0.1:8080/v1."""
        return f"http://{_in_url(ANYWHERE.get(self.host, self.host))}:{self.port}/v1"

    @property
    def page(self) -> str:
        """Where the chat page is: http://127.0.0.1:8080/."""
        return self.url.removesuffix("v1")

    def prompt(self, messages: list[dict[str, Any]]) -> tuple[str, list[int]]:
        """A conversation as the model reads it: text and token ids. Before `start` alone."""
        prompt = self._child.call("prompt", messages=messages)[0]
        return prompt["text"], prompt["ids"]

    def start(self) -> None:
        """Listen; returns when a request has been answered.

        Raises:
            InputError: the port was taken meanwhile.
            RunError, RuntimeDiedError: it doesn't answer.
        """
        self._child.call("listen", fd=self._socket.fileno())
        self._socket.close()  # the child's copy goes on: when it is closed, nobody listens
        connection = http.client.HTTPConnection(ANYWHERE.get(self.host, self.host), self.port, timeout=READY_S)
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            connection.request("GET", "/v1/models", headers=headers)
            status = connection.getresponse().status
        except OSError as error:
            raise RunError(f"{self.url}: the server is up but doesn't answer: {error}") from None
        finally:
            connection.close()
        if status != http.client.OK:
            raise RunError(f"{self.url}: the server is up but answers with status {status}")

    def _hear(self, line: str) -> bool:
        """Pass a line of the child's on; whether an error may quote it, should the child die."""
        if not line.startswith(REQUEST):
            if self._on_line:
                self._on_line(line)
            return True
        request = line.removeprefix(REQUEST)
        if not self._checked and request.startswith("GET /v1/models "):
            self._checked = True
        elif self._on_request:
            self._on_request(request)
        return False

    def wait(self) -> None:
        """Until `stop` was called and the last answers are out.

        Raises:
            RuntimeDiedError: the child died of something else.
        """
        self._child.call("wait")

    def stop(self) -> None:
        """Tell the child to take no further request and to end in a few seconds; may be called from a signal
        handler.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """End the child at once."""
        self._socket.close()
        self._child.close()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket on an address, not yet listening.

    Raises:
        InputError: the host is unknown or not this machine's, or the port is taken or forbidden.
    """
    where = f"{_in_url(host)}:{port}"
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "it is no name of a host"
        raise InputError(
            f"--host {host}: no such address ({why}); use 127.0.0.1 for this machine, 0.0.0.0 for its network"
        ) from None
    # localhost is taken as 127.0.0.1.
    family, kind, protocol, _, address = min(addresses, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        # A server that has just ended leaves its address unusable for a minute otherwise.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if isinstance(error, PermissionError):
            raise InputError(f"{where}: this port is the system's; choose a --port from 1024 up") from None
        if error.errno == EADDRINUSE:
            raise InputError(f"{where}: this port is in use; choose another --port, or 0 for a free one") from None
        raise InputError(
            f"{where}: this machine has no such address ({error.strerror}); use --host 127.0.0.1 or 0.0.0.0"
        ) from None
    return sock


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
