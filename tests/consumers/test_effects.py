"""Changes to a user that reach the user's rooms; on both databases."""

from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix.identifiers import UserId
from homeserver.storage import profiles, stream_rows
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.profiles import Change
from tests.world import User, World, eventually, running, settings


async def member(user: User, room_id: str, target: User) -> dict[str, Any]:
    """The content of somebody's member event."""
    answer = await user.get(f"/rooms/{room_id}/state/m.room.member/{target.user_id}")
    content: dict[str, Any] = answer.json()
    return content


async def becomes(user: User, room_id: str, target: User, **expected: Any) -> None:
    """Wait until somebody's member event says this."""
    await eventually(lambda: member(user, room_id, target), lambda found: expected.items() <= found.items())


async def set_name(user: User, name: str) -> None:
    answer = await user.put(f"/profile/{user.user_id}/displayname", {"displayname": name})
    assert answer.status_code == 200, answer.text


@pytest.mark.behaviours("CS-MEM-10")
async def test_new_name_reaches_every_room_and_keeps_what_else_the_member_said(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
    for room_id in rooms:
        await bob.join(room_id)
    own = {"membership": "join", "displayname": "B.", "org.example": 1, "reason": "Hello."}
    await bob.set_state(rooms[0], "m.room.member", own, bob.user_id)
    await bob.leave(rooms[2])
    await set_name(bob, "Bob")
    for room_id in rooms[:2]:
        await becomes(alice, room_id, bob, displayname="Bob")
    assert await member(alice, rooms[0], bob) == {"membership": "join", "displayname": "Bob", "org.example": 1}
    assert (await member(alice, rooms[2], bob))["membership"] == "leave"


@pytest.mark.behaviours("CS-MEM-10", "CS-MEM-04")
async def test_new_name_of_one_who_came_by_a_condition_does_not_repeat_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    other, room_id = await alice.create_room(preset="public_chat"), await alice.create_room()
    allow = [{"type": "m.room_membership", "room_id": other}]
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    await bob.join(other)
    await bob.join(room_id)
    assert "join_authorised_via_users_server" in await member(alice, room_id, bob)
    await set_name(bob, "Bob")
    await eventually(
        lambda: member(alice, room_id, bob),
        lambda found: found == {"membership": "join", "displayname": "Bob"},
    )


async def test_room_that_cannot_take_a_name_does_not_keep_others_from_it(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    first, second = await alice.create_room(preset="public_chat"), await alice.create_room(preset="public_chat")
    await bob.join(first)
    await bob.join(second)
    large = {"membership": "join", "org.example": "x" * 60_000}
    await bob.set_state(first, "m.room.member", large, bob.user_id)
    name = "b" * 10_000
    await set_name(bob, name)
    await becomes(alice, second, bob, displayname=name)
    assert await member(alice, first, bob) == large
    await set_name(bob, "Bob")
    await becomes(alice, first, bob, displayname="Bob")


async def test_change_that_was_not_told_yet_is_told_after_a_restart_and_only_once(
    database_url: str, tmp_path: Path
) -> None:
    config = settings(database_url, str(tmp_path))
    async with running(config) as world:
        alice = await world.user("alice")
        room_id = await alice.create_room()
    async with Database.open(database_url) as database:
        await database.write(_leave_word, UserId(alice.user_id))
    async with running(config) as world:
        alice = User(world.client, alice.user_id, alice.device_id, alice.token)
        await becomes(alice, room_id, alice, displayname="Alice")
        await eventually(
            lambda: world.container.database.read(profiles.list_changes, limit=10), lambda found: not found
        )
        chunk = (await alice.get(f"/rooms/{room_id}/messages", dir="b", limit=100)).json()["chunk"]
        assert len([event for event in chunk if event["type"] == "m.room.member"]) == 2


def _leave_word(tx: WriteTx, user_id: UserId) -> None:
    """What a server leaves behind that ended right after it had answered: the same change, noted twice."""
    profiles.put(tx, user_id, {"displayname": "Alice"})
    for _ in range(2):
        profiles.note_change(tx, Change(stream_rows.advance(tx), user_id))


async def test_deactivated_user_leaves_rooms_and_turns_down_invites(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    joined, invited = await alice.create_room(preset="public_chat"), await alice.create_room(invite=[bob.user_id])
    await bob.join(joined)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "bob"},
        "password": "bobbob",
    }
    session = (await bob.post("/account/deactivate")).json()["session"]
    assert (await bob.post("/account/deactivate", {"auth": {**auth, "session": session}})).status_code == 200
    for room_id in (joined, invited):
        await becomes(alice, room_id, bob, membership="leave")
    answer = await alice.post(f"/rooms/{joined}/invite", {"user_id": bob.user_id})
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
