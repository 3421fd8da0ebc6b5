"""The writer of events, when what it is given cannot be written; on both databases."""

import asyncio

import pytest

from tests.world import World


async def test_refused_write_holds_up_nothing_that_was_handed_over_meanwhile(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    for number in range(10):
        # Only the database refuses a NUL in a type, so it is found out in the middle of the transaction.
        refused, made, sent = await asyncio.gather(
            alice.put(f"/rooms/{room_id}/state/org.example%00/{number}"),
            alice.create_room(),
            alice.send(room_id, "Hello."),
        )
        assert (refused.status_code, refused.json()["errcode"]) == (400, "M_INVALID_PARAM")
        assert made
        assert sent


@pytest.mark.behaviours("CS-ROOM-05", "CS-ALIAS-02")
async def test_taken_alias_holds_up_nobody(world: World) -> None:
    alice = await world.user("alice")
    await alice.create_room(room_alias_name="den")
    for _ in range(10):
        refused, made = await asyncio.gather(alice.post("/createRoom", {"room_alias_name": "den"}), alice.create_room())
        assert (refused.status_code, refused.json()["errcode"]) == (400, "M_ROOM_IN_USE")
        assert made
