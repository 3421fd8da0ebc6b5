"""Syncs that are answered out of memory say the same as those out of the database.

A server that has just been started has nothing in memory, so the same question is asked before and after a restart.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.world import User, World, running, settings

FILTERS: list[dict[str, Any]] = [
    {},
    {"room": {"state": {"lazy_load_members": True}}},
    {"room": {"timeline": {"unread_thread_notifications": True}}},
    {"room": {"timeline": {"types": ["m.room.message"], "limit": 3}}},
    {"room": {"timeline": {"not_senders": ["@carol:localhost"]}, "ephemeral": {"not_types": ["*"]}}},
]


async def talk(alice: User, bob: User, carol: User, room_id: str) -> None:
    """Twice as much as some of the filters take at once."""
    root = await alice.send(room_id, "A thread begins.")
    await bob.send(room_id, "Hello, @alice!")
    mention = {"msgtype": "m.text", "body": "Alice?", "m.mentions": {"user_ids": [alice.user_id]}}
    await carol.send(room_id, mention)
    thread = {"rel_type": "m.thread", "event_id": root}
    await bob.send(room_id, {"msgtype": "m.text", "body": "In a thread.", "m.relates_to": thread})
    await carol.send(room_id, {"body": "secret"}, "m.room.encrypted")
    slip = await bob.send(room_id, "a slip")
    await bob.put(f"/rooms/{room_id}/redact/{slip}/r1", {"reason": "a slip"})


def without_ages(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without what depends on the moment of asking; the second half of the token is new after a restart."""
    answer["next_batch"] = answer["next_batch"].partition("_")[0]
    answer.pop("presence", None)
    return answer


@pytest.mark.behaviours("CS-SYNC-13", "CS-SYNC-22")
@pytest.mark.parametrize("wanted", FILTERS, ids=json.dumps)
async def test_memory_and_database_give_the_same_answer(
    database_url: str, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    params = {"filter": json.dumps(wanted)}
    config = settings(database_url, str(tmp_path))

    async def ask(user: User, since: str) -> dict[str, Any]:
        answer = await user.get("/sync", since=since, **params)
        assert answer.status_code == 200, answer.text
        return without_ages(answer.json())

    async with running(config) as world:
        alice, bob, carol = [await world.user(name) for name in ("alice", "bob", "carol")]
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        await carol.join(room_id)
        tokens = {}
        for user in (alice, bob):
            token = (await user.get("/sync", **params)).json()["next_batch"]
            tokens[user.user_id] = (await user.get("/sync", since=token, **params)).json()["next_batch"]
        await talk(alice, bob, carol, room_id)
        out_of_memory = [await ask(user, tokens[user.user_id]) for user in (alice, bob)]
    async with running(config) as world:
        again = [_moved(user, world) for user in (alice, bob)]
        out_of_database = [await ask(user, tokens[user.user_id]) for user in again]
    assert out_of_memory == out_of_database
    assert len(out_of_memory[0]["rooms"]["join"][room_id]["timeline"]["events"]) >= 3


def _moved(user: User, world: World) -> User:
    return User(world.client, user.user_id, user.device_id, user.token)
