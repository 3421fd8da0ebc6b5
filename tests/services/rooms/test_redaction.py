"""What was redacted is nowhere any more: in no table, in no index, in nothing that is in memory; on both databases."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from homeserver.storage.engine import ReadTx
from homeserver.storage.schema import metadata
from tests.world import User, World, running, settings

SECRET = "kumquat"

Json = dict[str, Any]


def tables_with(tx: ReadTx, needle: str) -> set[str]:
    """The tables in which the text occurs; all columns are read as they are stored, and events as they are meant."""
    found = set()
    for table in metadata.sorted_tables:
        for row in tx.connection.execute(select(table)):
            for value in row:
                text = (
                    value
                    if isinstance(value, str)
                    else value.decode("utf-8", "replace")
                    if isinstance(value, bytes)
                    else ""
                )
                if needle in text:
                    found.add(table.name)
    return found


async def redact(user: User, room_id: str, event_id: str) -> None:
    answer = await user.put(f"/rooms/{room_id}/redact/{event_id}/r{next(user.transactions)}", {"reason": "regretted"})
    assert answer.status_code == 200, answer.text


async def all_that_is_told(world: World, user: User, room_id: str, since: str | None, event_ids: list[str]) -> str:
    """Everything that a user can be told of a room, as one text."""
    told = [
        (await user.get("/sync")).text,
        (await user.get("/sync", since=since)).text if since is not None else "",
        (await user.get("/sync", full_state="true", filter='{"room":{"include_leave":true}}')).text,
        (await user.get(f"/rooms/{room_id}/messages", dir="b", limit=100)).text,
        (await user.get(f"/rooms/{room_id}/state")).text,
        (await user.get(f"/rooms/{room_id}/members")).text,
        (await user.get(f"/rooms/{room_id}/joined_members")).text,
        (await user.get("/publicRooms")).text,
        (await user.get(f"/v1/rooms/{room_id}/hierarchy")).text,
        (await user.get(f"/v1/rooms/{room_id}/threads")).text,
        (await user.get("/notifications")).text,
    ]
    for event_id in event_ids:
        told.append((await user.get(f"/rooms/{room_id}/event/{event_id}")).text)
        told.append((await user.get(f"/rooms/{room_id}/context/{event_id}")).text)
        told.append((await user.get(f"/v1/rooms/{room_id}/relations/{event_id}", recurse="true")).text)
    return "\n".join(told)


@pytest.mark.trust("I11")
async def test_redacted_content_is_nowhere(database_url: str, tmp_path: Path) -> None:
    config = settings(database_url, str(tmp_path))
    async with running(config) as world:
        alice, bob = await world.user("alice"), await world.user("bob")
        room_id = await alice.create_room(preset="public_chat", visibility="public")
        await bob.join(room_id)
        plain = await alice.send(room_id, "plain")
        since = (await bob.sync())["next_batch"]
        since = (await bob.sync(since))["next_batch"]
        text = {"msgtype": "m.text", "body": SECRET}
        edit = {**text, "m.new_content": text, "m.relates_to": {"rel_type": "m.replace", "event_id": plain}}
        reply = {**text, "m.relates_to": {"rel_type": "m.thread", "event_id": plain}}
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": plain, "key": SECRET}}
        secrets = [
            await alice.send(room_id, text),
            await alice.send(room_id, edit),
            await alice.send(room_id, reply),
            await alice.send(room_id, reaction, "m.reaction"),
            await alice.set_state(room_id, "m.room.topic", {"topic": SECRET}),
            await alice.set_state(room_id, "m.room.topic", {"topic": "something else"}),
            await alice.set_state(room_id, "m.room.name", {"name": SECRET}),
            await alice.set_state(
                room_id, "m.room.member", {"membership": "join", "displayname": SECRET}, alice.user_id
            ),
        ]
        # Whatever is kept in memory has seen it.
        assert SECRET in await all_that_is_told(world, bob, room_id, since, secrets)
        for event_id in secrets:
            await redact(alice, room_id, event_id)
        assert SECRET not in await all_that_is_told(world, bob, room_id, since, [plain, *secrets])
        assert SECRET not in await all_that_is_told(world, alice, room_id, None, [plain, *secrets])
        assert await world.container.database.read(tables_with, SECRET) == set()
        # The state is as it was, but for what was said.
        assert (await bob.get(f"/rooms/{room_id}/state/m.room.name")).json() == {}
        assert (await bob.get(f"/rooms/{room_id}/joined_members")).json()["joined"].keys() == {
            alice.user_id,
            bob.user_id,
        }
        await alice.set_state(room_id, "m.room.name", {"name": "New"})
        assert (await bob.get(f"/rooms/{room_id}/state/m.room.name")).json() == {"name": "New"}
        told = await all_that_is_told(world, bob, room_id, since, [plain, *secrets])
        assert SECRET not in told
    async with running(config) as world:
        bob = User(world.client, bob.user_id, bob.device_id, bob.token)
        assert SECRET not in await all_that_is_told(world, bob, room_id, since, [plain, *secrets])


@pytest.mark.trust("I11")
async def test_what_was_redacted_is_no_longer_counted(database_url: str, tmp_path: Path) -> None:
    config = settings(database_url, str(tmp_path))

    async def counts(user: User, since: str, room_id: str) -> Json:
        found: Json = (await user.sync(since))["rooms"]["join"][room_id]["unread_notifications"]
        return found

    async with running(config) as world:
        alice, bob = await world.user("alice"), await world.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        since = (await bob.sync())["next_batch"]
        mention = {"msgtype": "m.text", "body": "Bob!", "m.mentions": {"user_ids": [bob.user_id]}}
        first = await alice.send(room_id, mention)
        await alice.send(room_id, "Hello.")
        assert await counts(bob, since, room_id) == {"notification_count": 2, "highlight_count": 1}
        await redact(alice, room_id, first)
        expected = {"notification_count": 1, "highlight_count": 0}
        assert await counts(bob, since, room_id) == expected
    async with running(config) as world:
        bob = User(world.client, bob.user_id, bob.device_id, bob.token)
        assert await counts(bob, since, room_id) == expected, "as it is counted anew"
