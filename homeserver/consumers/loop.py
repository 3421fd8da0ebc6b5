"""Keeps work going that has no end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report

_PAUSE_S = 5.0

Work = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(works: Sequence[Work], clock: Clock) -> AsyncIterator[None]:
    """Each of the works runs for as long as the block lasts; one that fails is begun again after a pause."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(forever(work, clock)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def forever(work: Work, clock: Clock) -> None:
    """Do this again and again, until cancelled: what it fails by is reported, and after a pause it is tried again."""
    while True:
        if not await contained(work(), report):
            await clock.sleep(_PAUSE_S)
