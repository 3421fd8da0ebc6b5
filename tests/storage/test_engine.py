import asyncio

import pytest

from homeserver.storage import stream_rows
from homeserver.storage.engine import Database, WriteTx


class Refused(Exception):
    pass


def advance_and_fail(tx: WriteTx) -> None:
    stream_rows.advance(tx, 5)
    raise Refused


async def test_write_commits_when_the_unit_returns(database: Database) -> None:
    assert await database.write(stream_rows.advance, 3) == 3
    assert await database.read(stream_rows.current) == 3
    assert await database.snapshot(stream_rows.current) == 3


async def test_write_leaves_nothing_when_the_unit_raises(database: Database) -> None:
    with pytest.raises(Refused):
        await database.write(advance_and_fail)
    assert await database.read(stream_rows.current) == 0


async def test_writes_side_by_side_take_each_position_once(database: Database) -> None:
    taken = await asyncio.gather(*(database.write(stream_rows.advance) for _ in range(30)))
    assert sorted(taken) == list(range(1, 31))


@pytest.mark.trust("F03")
async def test_a_cancelled_write_has_finished_before_the_caller_goes_on(database: Database) -> None:
    for turns in range(12):
        before = await database.read(stream_rows.current)
        task = asyncio.get_running_loop().create_task(database.write(stream_rows.advance))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await database.read(stream_rows.current) in (before, before + 1)
    await database.ping()
