"""Sending and redacting events, and what is refused; on both databases."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.world import World

Json = dict[str, Any]
MESSAGE = {"msgtype": "m.text", "body": "x"}
ALL_VERSIONS = [str(number) for number in range(1, 13)]


@pytest.mark.behaviours("CS-SEND-01", "CS-API-11", "CS-API-12")
async def test_a_repeated_request_is_carried_out_once_for_each_device(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    path = f"/rooms/{room_id}/send/m.room.message/same"
    answers = await asyncio.gather(*(alice.put(path, MESSAGE) for _ in range(5)))
    again = await alice.put(path, MESSAGE)
    ids = {answer.json()["event_id"] for answer in [*answers, again]}
    assert len(ids) == 1
    other = await world.user("alice", device_id="OTHER")
    ids |= {
        (await other.put(path, MESSAGE)).json()["event_id"],
        (await alice.put(f"/rooms/{room_id}/send/m.other/same", MESSAGE)).json()["event_id"],
    }
    assert len(ids) == 3
    target = ids.pop()
    redact = f"/rooms/{room_id}/redact/{target}/same"
    first, second = await alice.put(redact), await alice.put(redact)
    assert first.json() == second.json()
    shown = (await alice.get(f"/rooms/{room_id}/messages", dir="f", limit=100)).json()["chunk"]
    assert sum(event["type"] in ("m.room.message", "m.other") for event in shown) == 3


@pytest.mark.behaviours("CS-SEND-02")
async def test_who_may_not_speak_is_refused(world: World) -> None:
    alice, bob, eve = [await world.user(name) for name in ("alice", "bob", "eve")]
    room_id = await alice.create_room(preset="public_chat", power_level_content_override={"events_default": 10})
    await bob.join(room_id)
    for user in (bob, eve):
        answer = await user.put(f"/rooms/{room_id}/send/m.room.message/t", MESSAGE)
        assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    unknown = await alice.put("/rooms/!nowhere:localhost/send/m.room.message/t", MESSAGE)
    assert unknown.status_code in (403, 404)


@pytest.mark.behaviours("CS-SEND-03", "CS-SEND-08", "CS-SEND-10")
@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.by_turns
async def test_redactions_strip_in_every_version_however_they_are_sent(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    one, two = await alice.send(room_id, "one"), await alice.send(room_id, "two")
    as_event = await alice.put(f"/rooms/{room_id}/send/m.room.redaction/r1", {"redacts": one, "reason": "oops"})
    as_redaction = await alice.put(f"/rooms/{room_id}/redact/{quote(two, safe='')}/r2", {"reason": "oops"})
    for target, answer in ((one, as_event), (two, as_redaction)):
        assert answer.status_code == 200, answer.text
        redaction = (await alice.get(f"/rooms/{room_id}/event/{quote(answer.json()['event_id'], safe='')}")).json()
        assert redaction["redacts"] == redaction["content"]["redacts"] == target
        event = (await alice.get(f"/rooms/{room_id}/event/{quote(target, safe='')}")).json()
        assert event["content"] == {}
        assert event["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]


@pytest.mark.behaviours("CS-SEND-07", "CS-SEND-09")
async def test_others_events_need_the_power_and_redacted_state_still_counts(world: World) -> None:
    alice, bob, eve = [await world.user(name) for name in ("alice", "bob", "eve")]
    room_id = await alice.create_room(preset="public_chat", name="Den")
    await bob.join(room_id)
    hers, his = await alice.send(room_id, "hers"), await bob.send(room_id, "his")
    assert (await bob.put(f"/rooms/{room_id}/redact/{hers}/1")).status_code == 403
    assert (await bob.put(f"/rooms/{room_id}/redact/{his}/2")).status_code == 200
    assert (await eve.put(f"/rooms/{room_id}/redact/{his}/3")).status_code == 403
    assert (await alice.put(f"/rooms/{room_id}/redact/$nothing/4")).status_code == 404
    other_room = await alice.create_room()
    assert (await alice.put(f"/rooms/{other_room}/redact/{hers}/5")).status_code == 404
    state = (await alice.get(f"/rooms/{room_id}/state")).json()
    by_key = {(event["type"], event["state_key"]): event["event_id"] for event in state}
    join, name = by_key["m.room.member", bob.user_id], by_key["m.room.name", ""]
    for number, event_id in enumerate((join, name)):
        assert (await alice.put(f"/rooms/{room_id}/redact/{event_id}/s{number}")).status_code == 200
    assert (await alice.get(f"/rooms/{room_id}/state/m.room.name/")).json() == {}
    await bob.send(room_id, "I am still here.")
    create = by_key["m.room.create", ""]
    assert (await alice.put(f"/rooms/{room_id}/redact/{create}/c")).status_code == 403


@pytest.mark.behaviours("CS-EV-01", "CS-EV-02")
@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_events_and_their_fields_have_a_size(world: World, version: str) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    assert (await alice.put(f"/rooms/{room_id}/send/m.x/1", {"a": "x" * 60_000})).status_code == 200
    large = await alice.put(f"/rooms/{room_id}/send/m.x/2", {"a": "x" * 66_000})
    assert (large.status_code, large.json()["errcode"]) == (413, "M_TOO_LARGE")
    for path in (f"send/{'t' * 256}/3", f"state/m.x/{'k' * 256}", f"state/{'ö' * 128}/k"):
        answer = await alice.put(f"/rooms/{room_id}/{path}", {})
        assert answer.status_code in (400, 413), answer.text
    assert (await alice.put(f"/rooms/{room_id}/state/m.x/{'k' * 255}", {})).status_code == 200


@pytest.mark.behaviours("CS-SEND-05")
@pytest.mark.parametrize(
    "content", ['{"a": 1.5}', '{"a": 1e20}', '{"a": 9007199254740992}', '{"a": -9007199254740992}']
)
@pytest.mark.parametrize("version", ["5", "6", "12"])
@pytest.mark.by_turns
async def test_numbers_that_are_not_canonical_are_refused_from_version_6_on(
    world: World, version: str, content: str
) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(room_version=version)
    answer = await world.client.send(
        "PUT",
        f"/_matrix/client/v3/rooms/{room_id}/send/m.x/1",
        content=content.encode(),
        headers={"Authorization": f"Bearer {alice.token}"},
    )
    if version == "5":
        assert answer.status_code in (200, 400)
    else:
        assert (answer.status_code, answer.json()["errcode"]) == (400, "M_BAD_JSON")


@pytest.mark.behaviours("CS-EV-11")
async def test_a_state_key_of_a_user_is_for_that_user(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room()
    answer = await alice.put(f"/rooms/{room_id}/state/m.x/{bob.user_id}", {})
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert (await alice.put(f"/rooms/{room_id}/state/m.x/{alice.user_id}", {})).status_code == 200


@pytest.mark.behaviours("CS-SYNC-08")
async def test_many_who_talk_at_once_in_one_room_are_all_heard_in_one_order(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room(preset="public_chat")
    people = [alice, *[await world.user(f"user{number}") for number in range(7)]]
    for one in people[1:]:
        await one.join(room_id)
    since = (await alice.get("/sync")).json()["next_batch"]
    sent = await asyncio.gather(*(one.send(room_id, str(number)) for one in people for number in range(5)))
    wanted = '{"room": {"timeline": {"limit": 100}}}'
    room = (await alice.get("/sync", since=since, filter=wanted)).json()["rooms"]["join"][room_id]
    heard = [event["event_id"] for event in room["timeline"]["events"]]
    assert sorted(heard) == sorted(sent)
    history = (await alice.get(f"/rooms/{room_id}/messages", dir="b", limit=40)).json()["chunk"]
    assert [event["event_id"] for event in history] == heard[::-1]


@pytest.mark.behaviours("CS-SYNC-19")
async def test_limited_timelines_carry_what_was_aggregated(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parent = await alice.send(room_id, "parent")
    new: Json = {"m.new_content": MESSAGE, "m.relates_to": {"rel_type": "m.replace", "event_id": parent}}
    change = await alice.send(room_id, {**MESSAGE, **new})
    wanted = '{"room": {"timeline": {"limit": 2}}}'
    timeline = (await alice.get("/sync", filter=wanted)).json()["rooms"]["join"][room_id]["timeline"]
    assert timeline["limited"]
    assert timeline["events"][0]["unsigned"]["m.relations"]["m.replace"]["event_id"] == change


@pytest.mark.behaviours("CS-SYNC-10")
async def test_a_rooms_summary_names_those_who_stand_for_it(world: World) -> None:
    alice, *others = [await world.user(name) for name in ("alice", "bob", "carol", "dave", "erin", "frank", "grace")]
    room_id = await alice.create_room(preset="public_chat")
    for one in others[:-1]:
        await one.join(room_id)
    await alice.invite(room_id, others[-1])
    summary = (await alice.get("/sync")).json()["rooms"]["join"][room_id]["summary"]
    assert summary["m.heroes"] == [one.user_id for one in others[:5]]
    assert (summary["m.joined_member_count"], summary["m.invited_member_count"]) == (6, 1)
    for one in others:
        await one.leave(room_id)
    alone = (await alice.get("/sync")).json()["rooms"]["join"][room_id]["summary"]
    assert len(alone["m.heroes"]) == 5
    assert alone["m.joined_member_count"] == 1
