"""Syncing, on both databases."""

import asyncio
from typing import Any

import pytest

from tests.world import World, until


def bodies(room: dict[str, Any]) -> list[str]:
    """The texts of the messages in a room's timeline."""
    return [event["content"]["body"] for event in room["timeline"]["events"] if event["type"] == "m.room.message"]


def nothing_since(answer: dict[str, Any]) -> dict[str, Any]:
    """What a sync gives when nothing has happened since that answer."""
    return {
        "next_batch": answer["next_batch"],
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
    }


def types(events: list[dict[str, Any]]) -> set[str]:
    return {event["type"] for event in events}


@pytest.mark.behaviours("CS-SYNC-01", "CS-SYNC-02")
async def test_first_sync_gives_state_at_the_start_of_the_timeline_and_then_only_news(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    for number in range(15):
        await alice.send(room_id, str(number))
    first = await alice.sync()
    room = first["rooms"]["join"][room_id]
    assert bodies(room) == [str(number) for number in range(5, 15)]
    assert room["timeline"]["limited"]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= types(room["state"]["events"])
    assert await alice.sync(first["next_batch"]) == nothing_since(first)
    await alice.send(room_id, "news")
    second = await alice.sync(first["next_batch"])
    room = second["rooms"]["join"][room_id]
    assert bodies(room) == ["news"]
    assert room["state"]["events"] == []
    assert not room["timeline"]["limited"]


@pytest.mark.behaviours("CS-SYNC-03")
async def test_a_gap_is_limited_and_brings_the_state_that_changed_in_it(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    first = await alice.sync()
    await alice.set_state(room_id, "m.room.name", {"name": "Lair"})
    for number in range(12):
        await alice.send(room_id, str(number))
    room = (await alice.sync(first["next_batch"]))["rooms"]["join"][room_id]
    assert room["timeline"]["limited"]
    assert bodies(room) == [str(number) for number in range(2, 12)]
    assert [event["content"] for event in room["state"]["events"]] == [{"name": "Lair"}]


@pytest.mark.behaviours("CS-SYNC-04")
async def test_a_waiting_sync_is_answered_as_soon_as_somebody_speaks(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    since = (await bob.sync())["next_batch"]
    waiting = asyncio.ensure_future(bob.sync(since, timeout=60_000))
    await until(lambda: world.container.notifier.waits(room_id))
    await alice.send(room_id, "Wake up.")
    async with asyncio.timeout(5):
        answer = await waiting
    assert bodies(answer["rooms"]["join"][room_id]) == ["Wake up."]


@pytest.mark.behaviours("CS-SYNC-04")
async def test_a_sync_that_waits_in_vain_has_empty_fields(world: World) -> None:
    alice = await world.user("alice")
    first = await alice.sync()
    assert await alice.sync(first["next_batch"], timeout=1) == nothing_since(first)


@pytest.mark.behaviours("CS-SYNC-12", "CS-EV-09", "CS-EV-10")
async def test_an_invite_wakes_and_carries_stripped_state(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    since = (await bob.sync())["next_batch"]
    waiting = asyncio.ensure_future(bob.sync(since, timeout=60_000))
    await until(lambda: world.container.notifier.waits(bob.user_id))
    room_id = await alice.create_room(name="Den", invite=[bob.user_id])
    async with asyncio.timeout(5):
        answer = await waiting
    events = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} == types(events)
    assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in events)


@pytest.mark.behaviours("CS-SYNC-11")
async def test_a_room_that_was_left_ends_with_the_leave(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    since = (await bob.sync())["next_batch"]
    await alice.send(room_id, "Stay.")
    await bob.leave(room_id)
    await alice.send(room_id, "Gone.")
    answer = await bob.sync(since)
    room = answer["rooms"]["leave"][room_id]
    assert bodies(room) == ["Stay."]
    assert room["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert "rooms" not in await bob.sync(answer["next_batch"])
    assert "rooms" not in await bob.sync()
    left = await bob.sync(filter={"room": {"include_leave": True}})
    assert bodies(left["rooms"]["leave"][room_id]) == ["Stay."]


@pytest.mark.behaviours("CS-SYNC-11")
async def test_a_rejected_invite_shows_its_end_and_nothing_of_the_room(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(invite=[bob.user_id])
    since = (await bob.sync())["next_batch"]
    await bob.leave(room_id)
    room = (await bob.sync(since))["rooms"]["leave"][room_id]
    assert [event["content"]["membership"] for event in room["timeline"]["events"]] == ["leave"]
    assert room["state"]["events"] == []


async def test_a_room_joined_since_comes_whole(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    for number in range(12):
        await alice.send(room_id, str(number))
    since = (await bob.sync())["next_batch"]
    await bob.join(room_id)
    room = (await bob.sync(since))["rooms"]["join"][room_id]
    assert bodies(room) == [str(number) for number in range(3, 12)]
    assert "m.room.create" in types(room["state"]["events"])
    assert room["summary"] == {
        "m.heroes": [alice.user_id],
        "m.joined_member_count": 2,
        "m.invited_member_count": 0,
    }


@pytest.mark.behaviours("CS-SYNC-05")
async def test_full_state_gives_all_state_and_a_timeline_bounded_by_since(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    since = (await alice.sync())["next_batch"]
    await alice.send(room_id, "new")
    room = (await alice.sync(since, full_state="true"))["rooms"]["join"][room_id]
    assert bodies(room) == ["new"]
    assert len(room["timeline"]["events"]) == 1
    assert {"m.room.create", "m.room.name"} <= types(room["state"]["events"])


@pytest.mark.behaviours("CS-SYNC-06")
async def test_state_after_is_the_state_at_the_end_of_the_timeline(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(name="Den")
    since = (await alice.sync())["next_batch"]
    await alice.set_state(room_id, "m.room.name", {"name": "Lair"})
    room = (await alice.sync(since, use_state_after="true"))["rooms"]["join"][room_id]
    assert "state" not in room
    assert [event["content"] for event in room["state_after"]["events"]] == [{"name": "Lair"}]
    await alice.send(room_id, "x")
    latest = await alice.sync(use_state_after="true")
    names = [e for e in latest["rooms"]["join"][room_id]["state_after"]["events"] if e["type"] == "m.room.name"]
    assert [event["content"] for event in names] == [{"name": "Lair"}]


@pytest.mark.behaviours("CS-SYNC-09", "CS-FILT-08")
async def test_lazy_loading_gives_only_the_members_who_speak_and_oneself(world: World) -> None:
    alice, bob, carol = [await world.user(name) for name in ("alice", "bob", "carol")]
    room_id = await alice.create_room(preset="public_chat", name="Den")
    await bob.join(room_id)
    await carol.join(room_id)
    for number in range(12):
        await bob.send(room_id, str(number))
    lazy = {"room": {"state": {"lazy_load_members": True}}}
    room = (await alice.sync(filter=lazy))["rooms"]["join"][room_id]
    shown = {event["state_key"] for event in room["state"]["events"] if event["type"] == "m.room.member"}
    assert {alice.user_id, bob.user_id} <= shown
    since = (await alice.sync(filter=lazy))["next_batch"]
    await carol.send(room_id, "me too")
    room = (await alice.sync(since, filter=lazy))["rooms"]["join"][room_id]
    assert [event["state_key"] for event in room["state"]["events"]] == [carol.user_id]


@pytest.mark.behaviours("CS-EV-04", "CS-EV-05", "CS-EV-06", "CS-EV-07")
async def test_events_carry_unsigned_data_made_here(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat", name="Den")
    await bob.join(room_id)
    since = (await bob.sync())["next_batch"]
    await alice.send(room_id, "x")
    await alice.set_state(room_id, "m.room.name", {"name": "Lair"})
    world.clock.time += 5000
    hers, his = await alice.sync(since), await bob.sync(since)
    message, name = hers["rooms"]["join"][room_id]["timeline"]["events"]
    assert message["unsigned"] == {"age": 5000, "membership": "join", "transaction_id": "t0"}
    assert name["unsigned"]["prev_content"] == {"name": "Den"}
    assert name["unsigned"]["replaces_state"].startswith("$")
    message, _ = his["rooms"]["join"][room_id]["timeline"]["events"]
    assert "transaction_id" not in message["unsigned"]


@pytest.mark.behaviours("CS-SEND-08")
async def test_a_redaction_comes_with_redacts_and_later_syncs_show_the_event_stripped(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "secret")
    since = (await alice.sync())["next_batch"]
    await alice.put(f"/rooms/{room_id}/redact/{event_id}/r1", {"reason": "oops"})
    [redaction] = (await alice.sync(since))["rooms"]["join"][room_id]["timeline"]["events"]
    assert redaction["redacts"] == redaction["content"]["redacts"] == event_id
    shown = (await alice.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    [redacted] = [event for event in shown if event["event_id"] == event_id]
    assert redacted["content"] == {}
    assert redacted["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]


@pytest.mark.parametrize("since", ["x", "s", "s1", "s1_2_3", "s-1_0", "s1_" + "9" * 40, "s١_٢", "s9999999999999999_5"])
async def test_strange_tokens_are_refused_or_lead_to_an_answer(world: World, since: str) -> None:
    alice = await world.user("alice")
    answer = await alice.get("/sync", since=since)
    if since == "s9999999999999999_5":
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.behaviours("CS-FILT-02", "CS-FILT-04")
async def test_filters_choose_rooms_types_and_senders(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    one = await alice.create_room(preset="public_chat")
    two = await alice.create_room()
    await bob.join(one)
    await bob.send(one, "from bob")
    await alice.send(one, "from alice")
    wanted = {
        "room": {
            "rooms": [one],
            "timeline": {"types": ["m.room.*"], "not_types": ["m.room.member"], "senders": [bob.user_id]},
        }
    }
    rooms = (await alice.sync(filter=wanted))["rooms"]["join"]
    assert two not in rooms
    assert bodies(rooms[one]) == ["from bob"]


@pytest.mark.parametrize("text", ["{", '{"room": 3}', '{"room": {"timeline": {"limit": 0}}}', "nosuch"])
async def test_bad_filters_are_refused(world: World, text: str) -> None:
    alice = await world.user("alice")
    answer = await alice.get("/sync", filter=text)
    assert answer.status_code in (400, 404)
