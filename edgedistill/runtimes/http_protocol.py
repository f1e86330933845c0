"""uvicorn's HTTP, with a bound on the time until a request's head has arrived."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0


class TimedProtocol(H11Protocol):
    """Closes a connection that sends no whole head within HEAD_S; uvicorn itself waits for ever."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle = self.loop.call_later(HEAD_S, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._head_timer.cancel()
        super().connection_lost(exc)

    def _close_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()
