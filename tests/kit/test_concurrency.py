"""Work with an owner."""

import asyncio

import pytest

from homeserver.kit.concurrency import contained

pytestmark = pytest.mark.anyio


async def _fail() -> None:
    raise OSError("The database is gone.")


async def test_failure_that_is_contained_is_reported_and_ends_nothing_else() -> None:
    reported: list[BaseException] = []
    assert not await contained(_fail(), reported.append)
    assert [str(error) for error in reported] == ["The database is gone."]
    assert await contained(asyncio.sleep(0), reported.append)
    assert len(reported) == 1


async def test_who_is_cancelled_meanwhile_is_cancelled() -> None:
    task = asyncio.get_running_loop().create_task(contained(asyncio.sleep(60), _never))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _never(error: BaseException) -> None:
    raise AssertionError(error)
