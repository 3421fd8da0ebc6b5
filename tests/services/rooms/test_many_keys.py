"""Rooms with very much state are used without all of it in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.identifiers import RoomId
from tests.world import User, World, running, settings

pytestmark = pytest.mark.anyio

COUNT = 520
Check = Callable[[dict[str, Any]], bool]


async def children(user: User, room_id: str) -> dict[str, Any]:
    """The contents of the state of this type, by key."""
    state = (await user.get(f"/rooms/{quote(room_id)}/state")).json()
    return {event["state_key"]: event["content"] for event in state if event["type"] == "m.space.child"}


def size(world: World, room_id: str) -> int:
    """What the room costs in memory, in bytes."""
    room = world.container.hot.recall(RoomId(room_id))
    assert room is not None
    return room.size


@pytest.mark.timeout(120)  # It writes and copies a great deal of state.
@pytest.mark.trust("C22", "R6")
async def test_a_room_with_many_state_keys_is_used_with_few_of_them_in_memory(
    database_url: str, tmp_path: Path
) -> None:
    config = settings(database_url, str(tmp_path))
    keys = [f"!child{number}:elsewhere.example" for number in range(COUNT)]
    async with running(config) as world:
        alice = await world.user("alice")
        room_id = await alice.create_room(preset="public_chat")
        for number, key in enumerate(keys):
            await alice.set_state(room_id, "m.space.child", {"via": ["elsewhere.example"], "order": f"{number}"}, key)
        whole = size(world, room_id)
    async with running(config) as world:
        alice.client = world.client
        await alice.send(room_id, "hello")
        assert size(world, room_id) < whole / 4
        assert (await children(alice, room_id)).keys() == set(keys)
        # State that is not in memory is replaced, and is what is compared with.
        changed = {"via": ["other.example"], "order": "first"}
        await alice.set_state(room_id, "m.space.child", changed, keys[0])
        await alice.set_state(room_id, "m.space.child", {}, keys[1])
        found = await children(alice, room_id)
        assert (found[keys[0]], found[keys[1]], found[keys[2]]["order"]) == (changed, {}, "2")
        assert size(world, room_id) < whole / 4
        answer = await alice.post(f"/rooms/{quote(room_id)}/upgrade", {"new_version": "12"})
        copied = await children(alice, answer.json()["replacement_room"])
        assert copied == {key: content for key, content in found.items() if content}
        await world.fsck()
