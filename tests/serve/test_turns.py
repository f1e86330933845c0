"""Who is next of the requests that wait, and that those whose clients have left are not."""

import asyncio

import pytest

from edgedistill.serve.asgi import ClientLeftError
from edgedistill.serve.turns import Turns


def test_the_smallest_is_next_and_those_that_left_are_passed_over():
    served: list[str] = []

    async def ask(turns: Turns, name: str, size: int, gone: "asyncio.Task[float]") -> None:
        async with turns.turn(size, gone):
            served.append(name)
            await asyncio.sleep(0.01)

    async def scene() -> None:
        turns, leave = Turns(), asyncio.Event()
        stays = asyncio.create_task(asyncio.sleep(60, 0.0))
        leaves = asyncio.create_task(left(leave))
        tasks = [asyncio.create_task(ask(turns, "first", 9, stays))]
        await asyncio.sleep(0)
        for name, size, gone in (("large", 5, stays), ("left", 1, leaves), ("small", 2, stays), ("next", 2, stays)):
            tasks.append(asyncio.create_task(ask(turns, name, size, gone)))
        await asyncio.sleep(0)
        leave.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends if end] == [ClientLeftError]
        with pytest.raises(ClientLeftError):
            await ask(turns, "late", 1, leaves)
        await asyncio.wait_for(ask(turns, "last", 1, stays), 5)
        stays.cancel()

    asyncio.run(scene())
    assert served == ["first", "small", "next", "large", "last"]


async def left(leave: asyncio.Event) -> float:
    await leave.wait()
    return 0.0
