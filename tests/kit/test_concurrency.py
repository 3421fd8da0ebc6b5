"""Work with an owner."""

import asyncio

import pytest

from homeserver.kit.concurrency import FairTurns, contained

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


async def test_fair_turns_go_round_groups_and_their_members() -> None:
    turns = FairTurns(rounds=2)
    order: list[str] = []

    async def ask(group: str, member: str, name: str) -> None:
        await turns.take(group, member)
        order.append(name)

    asked = [("g", "a", f"a{number}") for number in range(4)]
    asked += [("g", "b", "b0"), ("h", "c", "c0"), ("h", "c", "c1")]
    async with asyncio.TaskGroup() as group:
        for one in asked:
            group.create_task(ask(*one))
    # The first found nobody; then it is a turn for each group, and in it for each member.
    assert order == ["a0", "a1", "c0", "b0", "c1", "a2", "a3"]
    # Afterwards nobody waits.
    await asyncio.wait_for(turns.take("g", "a"), 1)


async def test_fair_turns_are_not_given_to_who_does_not_wait_any_more() -> None:
    turns = FairTurns(rounds=3)
    await turns.take("g", "a")
    gone, there = asyncio.ensure_future(turns.take("g", "a")), asyncio.ensure_future(turns.take("g", "b"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(there, 1)
    assert gone.cancelled()
