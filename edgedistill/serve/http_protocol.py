"""uvicorn's HTTP, with bounds on what a connection may hold and for how long, and with refusals in OpenAI's form."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgedistill.serve.asgi import Receive, Scope, Send, SentAnswer
from edgedistill.serve.refused import Refused

HEAD_S = 30.0  # until a request's head has come, the first or one after an answer
STALL_S = 30.0  # for a client to read on
MOST_CONNECTIONS = 512
MOST_REFUSED = 128  # beyond them are told so; more are closed
MOST_AHEAD_BYTES = 1 << 16  # of requests that come before an earlier one is answered


class TimedProtocol(H11Protocol):
    """One connection. uvicorn itself waits for ever for a head, and for a client that reads nothing."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._await_head()
        if len(self.connections) > MOST_CONNECTIONS:
            self.app = too_many
        if len(self.connections) > MOST_CONNECTIONS + MOST_REFUSED:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. uvicorn stops reading where a next request comes early; then it wouldn't see that the
        client has left.
        """
        super().data_received(data)
        if self._answering and self.conn.their_state is h11.DONE:
            if len(self.conn.trailing_data[0]) > MOST_AHEAD_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        super().on_response_complete()
        self._await_head()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, unless the request that it belongs to was answered already."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # it has nothing more to say
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = Refused("the request isn't valid HTTP: its head or a chunk of its body is wrong or too long")
            body = json.dumps(refusal.body).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            response = h11.Response(status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        """Close the connection unless a request is being answered in time."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_S, self._close_silent)

    def _close_silent(self) -> None:
        if not self._answering:
            self.transport.abort()


async def too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for connections beyond the most."""
    answer = SentAnswer(send)
    answer.headers = [(b"connection", b"close")]
    await answer.refuse(Refused("the server has too many connections; ask again later", 503))
