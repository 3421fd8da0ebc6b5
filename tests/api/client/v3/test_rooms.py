"""Making rooms, in every version; on both databases."""

import pytest

from tests.world import World


@pytest.mark.parametrize("version", [str(number) for number in range(1, 13)])
@pytest.mark.behaviours("CS-ROOM-01")
async def test_rooms_of_every_version_are_made_joined_and_talked_in(world: World, version: str) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(room_version=version, name="Den", topic="Bears", invite=[bob.user_id])
    await bob.join(room_id)
    first = await alice.send(room_id, "Hello.")
    second = await bob.send(room_id, "Hello to you.")
    assert first != second
    assert (await bob.get("/joined_rooms")).json() == {"joined_rooms": [room_id]}
