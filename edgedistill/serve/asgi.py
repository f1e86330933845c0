"""Small parts of HTTP over ASGI: a JSON body within bounds of size and time, JSON and streamed answers."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from edgedistill.serve.refused import Refused

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 8 << 20
MAX_PASSED_OVER_BYTES = 64 << 20  # of a body that is too big: who is cut off while sending doesn't see why
BODY_S = 30.0  # for the whole body: a client that sends a byte now and then would hold a connection for ever


class ClientLeftError(Exception):
    """Nobody waits for the answer any longer."""


class SentAnswer:
    """What is sent back: its status, and whether a refusal can still be one."""

    def __init__(self, send: Send) -> None:
        """`headers` go with every answer."""
        self._send = send
        self.headers: Headers = []
        self.status: int | None = None
        self._stream = False
        self._ended = False

    async def json(self, value: Any, status: int = 200, headers: Headers | None = None) -> None:
        """Send a whole answer."""
        # Half a surrogate pair of the request's can't be sent as it is; escaped it can.
        data = json.dumps(value).encode()
        kind = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await self.plain(data, status, kind + (headers or []))

    async def plain(self, data: bytes, status: int, headers: Headers) -> None:
        """Send a whole answer of any kind."""
        await self._start(status, headers)
        self._ended = True
        await self._send({"type": "http.response.body", "body": data})

    async def event(self, value: Any) -> None:
        """Send one event of a stream, the first with the headers."""
        if self.status is None:
            await self._start(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
            self._stream = True
        text = value if isinstance(value, str) else json.dumps(value)
        await self._send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refused) -> None:
        """Send a refusal: as an answer, or as the last event of a stream that has begun."""
        if self.status is None:
            headers = []
            if refusal.status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            if refusal.status in (408, 413):
                headers.append((b"connection", b"close"))  # the rest of the body isn't read
            await self.json(refusal.body, refusal.status, headers)
        elif self._stream and not self._ended:
            await self.event(refusal.body)
            await self.end()

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers + self.headers})


async def read_json(receive: Receive) -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        Refused: it is too big, too slow, or no JSON object.
        ClientLeftError: the client went in the middle.
    """
    try:
        data = await asyncio.wait_for(_read_body(receive), BODY_S)
    except (asyncio.TimeoutError, TimeoutError):
        raise Refused(f"the request took longer than {BODY_S:.0f} s to arrive", 408) from None
    try:
        content = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused('the request must be a JSON object, as {"messages": [...]}')
    return content


async def _read_body(receive: Receive) -> bytes:
    data, length, more = bytearray(), 0, True
    while more and length <= MAX_PASSED_OVER_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        part = message.get("body", b"")
        length += len(part)
        if length <= MAX_BODY_BYTES:
            data += part
        more = message.get("more_body", False)
    if length > MAX_BODY_BYTES:
        raise Refused(f"the request is longer than {MAX_BODY_BYTES >> 20} MiB", 413)
    return bytes(data)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


async def until_gone(receive: Receive) -> float:
    """Wait until the client has left; the time."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return time.monotonic()
