"""Receipts, read markers, typing and presence; on both databases."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.world import User, World, running, settings, until

Json = dict[str, Any]


def ephemeral(answer: Json, room_id: str, type_: str) -> list[Json]:
    events = answer.get("rooms", {}).get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == type_]


async def two_in_a_room(world: World) -> tuple[User, User, str]:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    return alice, bob, room_id


@pytest.mark.behaviours("CS-RCPT-01", "CS-RCPT-02", "CS-RCPT-06", "CS-RCPT-07", "CS-SYNC-18")
async def test_public_receipts_reach_others_and_private_ones_do_not(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    first, second = await alice.send(room_id, "one"), await alice.send(room_id, "two")
    since = (await alice.sync())["next_batch"]
    own = (await bob.sync())["next_batch"]
    assert (await bob.post(f"/rooms/{room_id}/receipt/m.read/{first}")).status_code == 200
    assert (await bob.post(f"/rooms/{room_id}/receipt/m.read.private/{second}")).status_code == 200
    receipt = {"ts": world.clock.time}
    news = await alice.sync(since)
    assert ephemeral(news, room_id, "m.receipt") == [{first: {"m.read": {bob.user_id: receipt}}}]
    assert ephemeral(await bob.sync(own), room_id, "m.receipt") == [
        {first: {"m.read": {bob.user_id: receipt}}, second: {"m.read.private": {bob.user_id: receipt}}}
    ]
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{second}", {"thread_id": "main"})
    again = await alice.sync(news["next_batch"])
    [content] = ephemeral(again, room_id, "m.receipt")
    assert content == {second: {"m.read": {bob.user_id: {**receipt, "thread_id": "main"}}}}
    [everything] = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert everything.keys() == {first, second}


async def test_receipts_are_for_members_and_events_of_the_room(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    eve = await world.user("eve")
    event_id = await alice.send(room_id, "one")
    assert (await eve.post(f"/rooms/{room_id}/receipt/m.read/{event_id}")).status_code == 403
    for path in ("receipt/m.read/$nothing", f"receipt/m.unread/{event_id}", "receipt/m.read/nodollar"):
        assert (await bob.post(f"/rooms/{room_id}/{path}")).status_code == 400


async def test_read_markers_are_account_data_and_never_go_back(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    first, second = await alice.send(room_id, "one"), await alice.send(room_id, "two")
    body = {"m.fully_read": second, "m.read": second, "m.read.private": first}
    assert (await bob.post(f"/rooms/{room_id}/read_markers", body)).status_code == 200
    assert (await bob.post(f"/rooms/{room_id}/receipt/m.fully_read/{first}")).status_code == 200
    path = f"/user/{bob.user_id}/rooms/{room_id}/account_data/m.fully_read"
    assert (await bob.get(path)).json() == {"event_id": second}
    assert (await bob.post(f"/rooms/{room_id}/read_markers", {"m.read": "x"})).status_code == 400


@pytest.mark.behaviours("CS-TYP-01", "CS-TYP-02", "CS-TYP-03")
async def test_typing_is_shown_while_it_lasts(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    path = f"/rooms/{room_id}/typing/{bob.user_id}"
    since = (await alice.sync())["next_batch"]
    waiting = asyncio.ensure_future(alice.sync(since, timeout=60_000))
    await until(lambda: world.container.notifier.waits(room_id))
    assert (await bob.put(path, {"typing": True, "timeout": 30_000})).status_code == 200
    async with asyncio.timeout(5):
        news = await waiting
    assert ephemeral(news, room_id, "m.typing") == [{"user_ids": [bob.user_id]}]
    assert ephemeral(await alice.sync(), room_id, "m.typing") == [{"user_ids": [bob.user_id]}]
    assert (await bob.put(path, {"typing": False})).status_code == 200
    later = await alice.sync(news["next_batch"])
    assert ephemeral(later, room_id, "m.typing") == [{"user_ids": []}]
    assert ephemeral(await alice.sync(later["next_batch"]), room_id, "m.typing") == []
    await bob.put(path, {"typing": True, "timeout": 1})
    async with asyncio.timeout(5):
        while ephemeral(later, room_id, "m.typing") != [{"user_ids": []}] or later["next_batch"] == since:
            since = later["next_batch"]
            later = await alice.sync(since, timeout=5000)


async def test_typing_is_only_for_oneself_where_one_is(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    eve = await world.user("eve")
    for user, path in ((alice, bob.user_id), (eve, eve.user_id)):
        body = {"typing": True, "timeout": 1000}
        assert (await user.put(f"/rooms/{room_id}/typing/{path}", body)).status_code == 403
    for bad in ({}, {"typing": True}, {"typing": "yes"}, {"typing": True, "timeout": -1}):
        assert (await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", bad)).status_code == 400


@pytest.mark.behaviours("CS-PRES-01", "CS-PRES-02", "CS-PRES-04", "CS-PRES-05", "CS-SYNC-07")
async def test_presence_follows_what_people_do(world: World) -> None:
    alice, bob, _ = await two_in_a_room(world)
    eve = await world.user("eve")

    async def presence() -> Json:
        found: Json = (await alice.get(f"/presence/{bob.user_id}/status")).json()
        return found

    assert (await presence())["presence"] == "offline"
    since = (await alice.sync(set_presence="offline"))["next_batch"]
    await bob.sync()
    assert (await presence())["presence"] == "online"
    news = await alice.sync(since, set_presence="offline")
    [event] = [one for one in news["presence"]["events"] if one["sender"] == bob.user_id]
    assert event["content"]["presence"] == "online"
    assert "presence" not in await alice.sync(news["next_batch"], set_presence="offline")
    await bob.put(f"/presence/{bob.user_id}/status", {"presence": "unavailable", "status_msg": "tea"})
    assert (await presence())["status_msg"] == "tea"
    world.clock.time += 31_000
    await world.container.presence.sweep()
    assert (await presence())["presence"] == "offline"
    assert (await eve.get(f"/presence/{bob.user_id}/status")).status_code == 403
    assert (await alice.get("/presence/@nobody:localhost/status")).status_code == 404
    assert (await alice.put(f"/presence/{bob.user_id}/status", {"presence": "online"})).status_code == 403
    assert (await bob.put(f"/presence/{bob.user_id}/status", {"presence": "away"})).status_code == 400


def presence_of(answer: Json, user: User) -> list[Json]:
    events = answer.get("presence", {}).get("events", [])
    return [event["content"] for event in events if event["sender"] == user.user_id]


@pytest.mark.behaviours("CS-PRES-01", "CS-PRES-02", "CS-PRES-03", "CS-PRES-04")
async def test_presence_is_collated_and_told_when_it_changes(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    phone = await world.user("bob", device_id="PHONE")

    async def shown() -> Json:
        found: Json = (await alice.get(f"/presence/{bob.user_id}/status")).json()
        return found

    since = (await alice.sync(set_presence="offline"))["next_batch"]
    await bob.sync()
    await phone.sync(set_presence="unavailable")
    assert (await shown())["presence"] == "online"
    news = await alice.sync(since, set_presence="offline")
    [told] = presence_of(news, bob)
    assert (told["presence"], told["currently_active"], told["last_active_ago"]) == ("online", True, 0)
    world.clock.time += 20_000
    await bob.sync()
    await bob.send(room_id, "I am here.")
    world.clock.time += 5_000
    assert (await shown())["last_active_ago"] == 5_000
    news = await alice.sync(news["next_batch"], set_presence="offline")
    assert presence_of(news, bob) == []

    for _ in range(4):
        world.clock.time += 20_000
        await bob.sync()
        await world.container.presence.sweep()
    news = await alice.sync(news["next_batch"], set_presence="offline")
    [told] = presence_of(news, bob)
    assert (told["presence"], told["currently_active"], told["last_active_ago"]) == ("online", False, 85_000)
    for _ in range(12):
        world.clock.time += 20_000
        await bob.sync()
        await world.container.presence.sweep()
    assert (await shown())["presence"] == "unavailable"
    await bob.send(room_id, "I was elsewhere.")
    assert await shown() == {"presence": "online", "currently_active": True, "last_active_ago": 0}
    world.clock.time += 31_000
    await world.container.presence.sweep()
    assert (await shown())["presence"] == "offline"
    await bob.sync()
    assert (await shown())["presence"] == "online"


async def test_presence_that_is_not_enabled_shows_nobody(database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path), presence=False)) as world:
        alice, bob, _ = await two_in_a_room(world)
        since = (await alice.sync())["next_batch"]
        await bob.sync()
        assert (await bob.put(f"/presence/{bob.user_id}/status", {"presence": "online"})).status_code == 200
        assert (await alice.get(f"/presence/{bob.user_id}/status")).json() == {"presence": "offline"}
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
        assert "presence" not in await alice.sync(since)


@pytest.mark.behaviours("CS-PROF-05")
async def test_a_new_name_reaches_rooms_and_presence(world: World) -> None:
    alice, bob, room_id = await two_in_a_room(world)
    await bob.sync()
    start = news = await alice.sync()
    name = {"displayname": "Bob", "avatar_url": "mxc://localhost/bob"}
    for field in name:
        assert (await bob.put(f"/profile/{bob.user_id}/{field}", {field: name[field]})).status_code == 200
    seen: list[Json] = []
    told: list[Json] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1] != {"membership": "join", **name} or not told or name.items() > told[-1].items():
            news = await alice.sync(news["next_batch"], timeout=5000)
            timeline = news.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {"events": []})
            seen += [event["content"] for event in timeline["events"] if event["type"] == "m.room.member"]
            told += presence_of(news, bob)
    assert told[-1] == {**told[-1], **name, "presence": "online"}
    assert presence_of(start, bob)[0].keys().isdisjoint(name)
    # A removed name leaves the rooms too.
    assert (await bob.call("DELETE", f"/profile/{bob.user_id}/displayname")).status_code == 200
    async with asyncio.timeout(10):
        while "displayname" in seen[-1]:
            news = await alice.sync(news["next_batch"], timeout=5000)
            timeline = news.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {"events": []})
            seen += [event["content"] for event in timeline["events"] if event["type"] == "m.room.member"]
    assert seen[-1] == {"membership": "join", "avatar_url": name["avatar_url"]}
