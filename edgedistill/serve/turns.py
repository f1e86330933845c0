"""Requests that wait for one thing, such as the process that renders chat templates: the smallest is next."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeVar

from edgedistill.serve.asgi import ClientLeftError

T = TypeVar("T")


class Turns:
    """One request at a time has its turn. One that takes milliseconds never waits behind several that take seconds."""

    def __init__(self) -> None:
        """Nobody has it."""
        self._taken = False
        self._numbers = count()  # of two that are as small, the first to come is next
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, size: int, gone: "asyncio.Task[float]") -> AsyncIterator[None]:
        """`async with turns.turn(size, gone):` waits for the turn and has it.

        Args:
            size: in any unit that those which wait share.
            gone: ends when the client has left.
        Raises:
            ClientLeftError: the client left while its request waited, or before.
        """
        await unless_gone(self._take(size), gone)
        try:
            if gone.done():
                raise ClientLeftError
            yield
        finally:
            self._pass_on()

    async def _take(self, size: int) -> None:
        if not self._taken:
            self._taken = True
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (size, next(self._numbers), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # the turn came just when the client left
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return
        self._taken = False


async def unless_gone(wish: Awaitable[T], gone: "asyncio.Task[float]") -> T:
    """What is waited for.

    Raises:
        ClientLeftError: the client has left before.
    """
    task = asyncio.ensure_future(wish)
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        raise ClientLeftError
    return task.result()
