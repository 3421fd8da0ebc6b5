"""What a redaction redacts is not to be read once the redaction is there, in whatever order they come."""

import asyncio
import json
from threading import Event as Signal
from typing import Any

import pytest

from homeserver.errors import Unreachable
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId
from homeserver.services.rooms.receipts import Outcome
from homeserver.storage.engine import WriteTx
from tests.federation.foreign import ForeignRoom
from tests.federation.network import Network
from tests.federation.scenarios import good, part
from tests.federation.test_history import Hole, hole
from tests.federation.test_outbound import DAN, MINUTE, B, Stage, stage
from tests.services.rooms.test_branches import BOB
from tests.services.rooms.test_redaction import SECRET, all_that_is_told, tables_with
from tests.world import World, eventually, until

__all__ = ["hole", "stage"]

pytestmark = [pytest.mark.anyio, pytest.mark.trust("I11")]


async def where(world: World) -> set[str]:
    """The tables in which the secret is to be found."""
    return await world.container.database.read(tables_with, SECRET)


def redaction_of(room: Any, sender: str, target: Event, *prev: Event) -> Event:
    """A redaction, as its room's version has it."""
    event: Event = room.graph.say(
        sender, "m.room.redaction", {"redacts": target.event_id}, list(prev), redacts=target.event_id
    )
    return event


async def may_set_topics(hole: Hole) -> Event:
    """Let bob do so; the event that says it, behind which the gap begins."""
    levels = await hole.scene.state("m.room.power_levels")
    levels["users"] = {**levels["users"], BOB: 50}
    hole.before = await hole.alice.set_state(hole.room, "m.room.power_levels", levels)
    hole.graph = await hole.scene.graph()
    return hole.graph.by_id[hole.before]


@pytest.mark.trust("F32")
async def test_who_was_down_is_not_sent_what_was_redacted_meanwhile(stage: Stage) -> None:
    alice, room_id = stage.alice, stage.scene.room_id
    levels = await stage.scene.state("m.room.power_levels")
    await alice.set_state(room_id, "m.room.power_levels", levels | {"users": levels["users"] | {DAN: 50}})
    await stage.has_delivered(B)
    stage.b.failure = Unreachable("down")
    said = [await alice.send(room_id, f"{SECRET} {number}") for number in range(3)]
    await stage.has_failed(B, 1)
    assert SECRET in json.dumps(stage.b.offered), "Something of it was on its way."
    await good(alice.put(f"/rooms/{part(room_id)}/redact/{part(said[0])}/r", {}))
    graph = await stage.scene.graph()
    by_dan = graph.say(DAN, "m.room.redaction", {"redacts": said[1]}, [graph.events[-1]])
    assert await stage.scene.outcomes(by_dan) == [Outcome.ACCEPTED]
    await stage.say("after")
    await until(lambda: "after" in stage.c.bodies)  # So the sender knows of it.
    stage.b.offered.clear()
    stage.b.failure = None
    stage.network.clock.advance(MINUTE)

    def bodies() -> list[str | None]:
        return [pdu["content"].get("body") for pdu in stage.b.events if pdu["type"] == "m.room.message"]

    await until(lambda: "after" in bodies())
    assert bodies() == [None, None, f"{SECRET} 2", "after"]
    assert f"{SECRET} 1" not in json.dumps(stage.b.offered)


@pytest.mark.trust("R4")
async def test_state_that_was_redacted_before_it_came_is_never_there(hole: Hole) -> None:
    hole.serve()
    before = await may_set_topics(hole)
    topic = hole.hide(hole.graph.say(BOB, "m.room.topic", {"topic": SECRET}, [before], state_key=""))
    other = hole.hide(hole.graph.say(BOB, "m.room.topic", {"topic": "tea"}, [topic], state_key=""))
    redaction = hole.hide(redaction_of(hole, BOB, topic, other))
    await hole.close(redaction, known=[*hole.graph.before([redaction]).values()])
    inbox = hole.world.container.inbox
    # The redaction comes alone, and then what it redacts, which is cited by somebody.
    state = {pair: event.event_id for pair, event in hole.graph.before([other]).items()}
    receipt = await inbox.receive_with_state(RoomId(hole.room), redaction.pdu, state)  # type: ignore[arg-type]
    assert receipt.outcome == Outcome.ACCEPTED
    [receipt] = await inbox.receive_outliers(RoomId(hole.room), [topic.pdu])
    assert receipt.outcome == Outcome.OUTLIER
    assert await where(hole.world) == set()
    found = {event["event_id"]: event for event in await hole.read_back()}
    assert found[topic.event_id]["content"] == {}
    assert found[topic.event_id]["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
    assert await where(hole.world) == set()


@pytest.mark.parametrize("version", ["1", "3", "10", "11", "12"])
async def test_a_redaction_that_was_redacted_itself_still_redacts_what_comes_later(
    network: Network, version: str
) -> None:
    a = await network.server("a.test")
    alice = await a.user("alice")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    room.host()
    await good(alice.post(f"/join/{part(room.room_id)}?server_name=p.test&via=p.test"))
    start = room.tip
    said = room.graph.say(room.owner, "m.room.message", {"body": SECRET}, [start])
    first = redaction_of(room, room.owner, said, start)
    second = redaction_of(room, room.owner, first, start)
    # Up to version 10, nothing in the redacted form of a redaction says what it redacts.
    for event in (second, first, said):
        assert await room.peer.send("a.test", part(event.event_id), event.pdu) == {event.event_id: {}}
    path = f"/rooms/{part(room.room_id)}/event/{part(said.event_id)}"
    assert (await good(alice.get(path)))["content"] == {}
    assert await where(a) == set()


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # All that writes goes through one thread there.
@pytest.mark.parametrize("is_state", [False, True])
@pytest.mark.trust("R4", "F22")
async def test_a_redaction_that_nobody_waits_for_any_more_is_not_missed(hole: Hole, is_state: bool) -> None:
    hole.serve()
    start = await may_set_topics(hole)
    kind: dict[str, Any] = {"type_": "m.room.topic", "state_key": ""} if is_state else {"type_": "m.room.message"}
    secret = hole.hide(hole.graph.say(BOB, content={"body": SECRET, "topic": SECRET}, prev=[start], **kind))
    other = hole.hide(hole.graph.say(BOB, "m.room.topic", {"topic": "tea"}, [secret], state_key=""))
    last = hole.say(3, other)
    end = await hole.close(last, known=[*hole.graph.before([last]).values()])
    redaction = redaction_of(hole, BOB, secret, end)
    container = hole.world.container
    room = await container.hot.find(RoomId(hole.room))
    begun, go_on = asyncio.Event(), Signal()
    loop = asyncio.get_running_loop()

    def hold_up(tx: WriteTx) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)

    holding = asyncio.ensure_future(container.database.write(hold_up))
    await begun.wait()
    receiving = asyncio.ensure_future(container.inbox.receive(RoomId(hole.room), [redaction.pdu]))
    await until(lambda: room.pending == 1)
    receiving.cancel()
    inbox = container.inbox
    citing = asyncio.ensure_future(inbox.receive_outliers(RoomId(hole.room), [secret.pdu] if is_state else []))
    reading = asyncio.ensure_future(hole.read_back())
    await asyncio.wait([reading], timeout=0.5)
    go_on.set()
    await asyncio.wait([holding, receiving, citing])
    await reading
    await eventually(hole.read_back, lambda found: secret.event_id in {event["event_id"] for event in found})
    found = {event["event_id"]: event for event in await hole.read_back()}
    assert found[secret.event_id]["content"] == {}
    assert await where(hole.world) == set()


async def test_a_redaction_that_redacts_nothing_is_shown_to_nobody(stage: Stage) -> None:
    alice, room_id, world = stage.alice, stage.scene.room_id, stage.world
    said = await alice.send(room_id, "still here")
    since = (await alice.sync())["next_batch"]
    graph = await stage.scene.graph()
    content = {"redacts": said, "m.mentions": {"user_ids": [alice.user_id]}}  # Which would be a reason to ring.
    bad = graph.say(BOB, "m.room.redaction", content, [graph.events[-1]])
    unknown = graph.say(BOB, "m.room.redaction", {"redacts": "$never_seen"}, [bad])
    nothing = graph.say(BOB, "m.room.redaction", {"body": "nothing"}, [unknown])
    # That it was redacted itself does not make it count.
    of_it = graph.say(BOB, "m.room.redaction", {"redacts": bad.event_id}, [nothing])
    held = [event.event_id for event in (bad, unknown, nothing)]
    assert await stage.scene.outcomes(bad, unknown, nothing) == [Outcome.ACCEPTED] * 3
    assert "rooms" not in await alice.sync(since)
    unread = (await alice.sync())["rooms"]["join"][room_id]["unread_notifications"]
    assert unread == {"notification_count": 0, "highlight_count": 0}
    assert await stage.scene.outcomes(of_it) == [Outcome.ACCEPTED]
    after = await alice.send(room_id, "after")
    graph = await stage.scene.graph()
    assert graph.by_id[after].prev_events == [of_it.event_id], "The room has them, whoever sees them."
    told = await all_that_is_told(world, alice, room_id, since, [said, *held, of_it.event_id, after])
    assert [one for one in held if one in told.replace(f'"redacts":"{bad.event_id}"', "")] == []
    room = (await alice.sync(since))["rooms"]["join"][room_id]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [of_it.event_id, after]
    assert not room["timeline"]["limited"]
    carol = await world.user("carol")
    await carol.join(room_id)
    assert (await good(carol.get(f"/rooms/{part(room_id)}/event/{part(said)}")))["content"]["body"] == "still here"
    for event_id in held:
        assert (await carol.get(f"/rooms/{part(room_id)}/event/{part(event_id)}")).status_code == 404
        answer = await stage.network.peers[B].call("a.test", "GET", f"/_matrix/federation/v1/event/{part(event_id)}")
        assert answer.status_code == 200, "Servers are given them."


async def test_a_redaction_is_shown_once_what_it_redacts_has_come(stage: Stage) -> None:
    alice, room_id = stage.alice, stage.scene.room_id
    graph = await stage.scene.graph()
    start = graph.events[-1]
    since = (await alice.sync())["next_batch"]
    said = graph.say(BOB, "m.room.message", {"body": SECRET}, [start])
    redaction = graph.say(BOB, "m.room.redaction", {"redacts": said.event_id}, [start])
    assert await stage.scene.outcomes(redaction) == [Outcome.ACCEPTED]
    seen = await alice.sync(since)
    assert "rooms" not in seen
    path = f"/rooms/{part(room_id)}/event/{part(redaction.event_id)}"
    assert (await alice.get(path)).status_code == 404
    assert await stage.scene.outcomes(said) == [Outcome.ACCEPTED]
    [event] = (await alice.sync(seen["next_batch"]))["rooms"]["join"][room_id]["timeline"]["events"]
    assert (event["event_id"], event["content"]) == (said.event_id, {})
    assert event["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
    await good(alice.get(path))
    page = await good(alice.get(f"/rooms/{part(room_id)}/messages?dir=b&limit=2"))
    assert [one["event_id"] for one in page["chunk"]] == [said.event_id, redaction.event_id]


async def test_who_is_shown_nothing_behind_a_gap_is_told_of_the_gap(hole: Hole) -> None:
    await hole.alice.send(hole.room, "known")
    hole.graph = await hole.scene.graph()
    start = hole.graph.events[-1]
    since = (await hole.alice.sync())["next_batch"]
    secret = hole.hide(hole.graph.say(BOB, "m.room.message", {"body": SECRET}, [start]))
    redaction = redaction_of(hole, BOB, secret, secret)
    inbox = hole.world.container.inbox
    state = {pair: event.event_id for pair, event in hole.graph.before([secret]).items()}
    receipt = await inbox.receive_with_state(RoomId(hole.room), redaction.pdu, state)  # type: ignore[arg-type]
    assert receipt.outcome == Outcome.ACCEPTED
    seen = await hole.alice.sync(since)
    timeline = seen["rooms"]["join"][hole.room]["timeline"]
    assert (timeline["events"], timeline["limited"]) == ([], True)
    assert "rooms" not in await hole.alice.sync(seen["next_batch"])
    hole.serve()
    await eventually(lambda: hole.read_back(since=timeline["prev_batch"]), lambda found: len(found) > 2)
    back = {event["event_id"]: event for event in await hole.read_back(since=timeline["prev_batch"])}
    assert back[secret.event_id]["content"] == {}
    assert redaction.event_id in back
