"""Keeps work going that has no end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from homeserver.kit.clock import Clock
from homeserver.kit.logs import report

_PAUSE_S = 5.0


@asynccontextmanager
async def running(works: Sequence[Callable[[], Awaitable[None]]], clock: Clock) -> AsyncIterator[None]:
    """Each of the works runs for as long as the block lasts; one that fails is begun again after a pause."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_keep_going(work, clock)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _keep_going(work: Callable[[], Awaitable[None]], clock: Clock) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # whatever it was, the others' work goes on, and this one is tried again
            report(error)
        await clock.sleep(_PAUSE_S)
