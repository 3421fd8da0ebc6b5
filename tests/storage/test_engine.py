import asyncio
from dataclasses import replace

import pytest

from homeserver.errors import InvalidParam
from homeserver.matrix.identifiers import ServerName
from homeserver.storage import deliveries, stream_rows
from homeserver.storage.deliveries import Answered
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


@pytest.mark.trust("C24")
async def test_what_is_run_past_the_layers_of_the_library_is_checked_and_undone_like_all_else(
    database: Database,
) -> None:
    good = Answered(ServerName("b.example"), 1, b"n" * deliveries.NAME, b"{}", 5)
    bad = replace(good, number=2, origin=ServerName("b\0.example"))
    with pytest.raises(InvalidParam):
        await database.write(deliveries.keep_answers, [good, bad])
    assert await database.read(deliveries.list_answers, good.origin) == []
    with pytest.raises(Refused):
        await database.write(_keep_and_fail, good)
    assert await database.read(deliveries.list_answers, good.origin) == []
    await database.write(deliveries.keep_answers, [good, replace(good, number=2)])
    assert await database.read(deliveries.list_answers, good.origin) == [good, replace(good, number=2)]


def _keep_and_fail(tx: WriteTx, answered: Answered) -> None:
    deliveries.keep_answers(tx, [answered])
    raise Refused
