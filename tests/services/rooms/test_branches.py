"""Rooms whose history has branches: what people here see of what servers elsewhere say (server-server API, PDUs)."""

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.signing import sign_pdu
from homeserver.services.rooms.intake import FirstWrite
from homeserver.services.rooms.receipts import Outcome, Receipt
from homeserver.storage import event_graph, event_log, events, rooms, server_keys
from homeserver.storage.engine import ReadTx, WriteTx
from tests import room_graphs
from tests.room_graphs import Graph
from tests.world import User, World, until

BOB = "@bob:b.example"
DAN = "@dan:c.example"


@dataclass
class Scene:
    """A public room of alice's, with people of other servers in it."""

    world: World
    alice: User
    room_id: str

    async def graph(self) -> Graph:
        """The room as it is stored."""
        return room_graphs.of_stored("12", self.room_id, await self.world.container.database.read(_all, self.room_id))

    async def receive(self, *new: Event | bytes) -> list[Receipt]:
        pdus = [one if isinstance(one, bytes) else one.pdu for one in new]
        return await self.world.container.inbox.receive(RoomId(self.room_id), pdus)

    async def outcomes(self, *new: Event | bytes) -> list[Outcome]:
        return [receipt.outcome for receipt in await self.receive(*new)]

    async def join(self, user_id: str) -> None:
        graph = await self.graph()
        event = graph.say(user_id, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=user_id)
        assert await self.outcomes(event) == [Outcome.ACCEPTED]

    async def tips(self) -> set[str]:
        return await self.world.container.database.snapshot(_tips, self.room_id)

    async def state(self, type_: str, state_key: str = "") -> Any:
        return (await self.alice.get(f"/rooms/{quote(self.room_id)}/state/{type_}/{quote(state_key)}")).json()

    async def bodies(self) -> list[str]:
        """What alice reads, the oldest first."""
        page = (await self.alice.get(f"/rooms/{quote(self.room_id)}/messages", dir="f", limit="100")).json()
        return [event["content"].get("body", "") for event in page["chunk"] if event["type"] == "m.room.message"]


def _all(tx: ReadTx, room_id: str) -> list[Event]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    return [Event.parse(row.pdu, room.version, row.event_id) for row in event_log.list_all(tx, room.room_nid)]


def _tips(tx: ReadTx, room_id: str) -> set[str]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    return {row.event_id for row in events.find_many(tx, rooms.list_extremities(tx, room.room_nid)).values()}


@pytest.fixture
async def scene(world: World) -> Scene:
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
    alice = await world.user("alice")
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    return scene


async def allow_topics(scene: Scene) -> None:
    """Let everybody set state."""
    levels = await scene.state("m.room.power_levels")
    await scene.alice.set_state(scene.room_id, "m.room.power_levels", {**levels, "state_default": 0, "events": {}})


async def test_an_event_of_another_server_reaches_a_waiting_sync(scene: Scene) -> None:
    since = (await scene.alice.sync())["next_batch"]
    graph = await scene.graph()
    said = graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "hello"}, [graph.events[-1]])
    assert await scene.outcomes(said) == [Outcome.ACCEPTED]
    room = (await scene.alice.sync(since))["rooms"]["join"][scene.room_id]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [said.event_id]
    assert await scene.outcomes(said) == [Outcome.ACCEPTED]
    assert "rooms" not in await scene.alice.sync((await scene.alice.sync(since))["next_batch"])


@pytest.mark.parametrize("use_state_after", [False, True])
@pytest.mark.trust("R4")
async def test_a_sync_tells_of_state_that_changes_because_branches_meet(scene: Scene, use_state_after: bool) -> None:
    await allow_topics(scene)
    before = (await scene.graph()).events[-1]
    await scene.alice.set_state(scene.room_id, "m.room.topic", {"topic": "here"})
    after_topic = await scene.graph()
    options = {"use_state_after": "true"} if use_state_after else {}
    since = (await scene.alice.sync(**options))["next_batch"]
    # Bob's server has not seen the topic, and says another, and then much else, on a branch of its own.
    topic = after_topic.build(BOB, "m.room.topic", {"topic": "there"}, [before], state_key="")
    after_topic.add(topic, [before])
    tip, branch = topic, [topic]
    for number in range(12):
        tip = after_topic.say(BOB, "m.room.message", {"body": f"{number}"}, [tip])
        branch.append(tip)
    assert set(await scene.outcomes(*branch)) == {Outcome.ACCEPTED}
    winner = after_topic.resolved([after_topic.after[end] for end in await scene.tips()])["m.room.topic", ""]
    assert await scene.state("m.room.topic") == winner.content
    room = (await scene.alice.sync(since, **options))["rooms"]["join"][scene.room_id]
    state = room["state_after" if use_state_after else "state"]["events"]
    assert [event["content"] for event in state if event["type"] == "m.room.topic"] == (
        [winner.content] if winner is topic else []
    )
    whole = (await scene.alice.sync(**options))["rooms"]["join"][scene.room_id]
    told = [*whole["state_after" if use_state_after else "state"]["events"], *whole["timeline"]["events"]]
    assert [event["content"] for event in told if event["type"] == "m.room.topic"][-1] == winner.content


@pytest.mark.behaviours("SS-PDU-06")
async def test_an_own_event_follows_all_branches_and_names_what_allows_it(scene: Scene) -> None:
    graph = await scene.graph()
    start = graph.events[-1]
    branches = [graph.say(BOB, "m.room.message", {"body": f"{number}"}, [start]) for number in range(3)]
    await scene.receive(*branches)
    sent = await scene.alice.send(scene.room_id, "hello")
    graph = await scene.graph()
    event, before = graph.by_id[sent], graph.before(branches)
    assert sorted(event.prev_events) == sorted(branch.event_id for branch in branches)
    # Server-server API, Auth events selection; the create event is none from version 12 on.
    usual = {before["m.room.power_levels", ""].event_id, before["m.room.member", scene.alice.user_id].event_id}
    assert set(event.auth_events) == usual
    answer = await scene.alice.post(f"/rooms/{quote(scene.room_id)}/kick", {"user_id": BOB})
    assert answer.status_code == 200, answer.text
    graph = await scene.graph()
    assert set(graph.events[-1].auth_events) == usual | {before["m.room.member", BOB].event_id}
    assert graph.events[-1].prev_events == [sent]


@pytest.mark.trust("C29")
async def test_who_was_banned_cannot_speak_from_before_the_ban(scene: Scene) -> None:
    before = (await scene.graph()).events[-1]
    answer = await scene.alice.post(f"/rooms/{quote(scene.room_id)}/ban", {"user_id": BOB})
    assert answer.status_code == 200
    since = (await scene.alice.sync())["next_batch"]
    tips = await scene.tips()
    graph = await scene.graph()
    evasion = graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "still here"}, [before])
    [receipt] = await scene.receive(evasion)
    assert receipt.outcome == Outcome.SOFT_FAILED
    assert receipt.reason
    assert "rooms" not in await scene.alice.sync(since)
    assert await scene.bodies() == []
    assert (await scene.alice.get(f"/rooms/{quote(scene.room_id)}/event/{quote(evasion.event_id)}")).status_code == 404
    assert await scene.tips() == tips
    sent = await scene.alice.send(scene.room_id, "quiet now")
    assert (await scene.graph()).by_id[sent].prev_events == [*tips]


@pytest.mark.trust("C29")
async def test_what_follows_a_soft_failed_event_is_accepted_and_covers_what_is_before_it(scene: Scene) -> None:
    await scene.join(DAN)
    before = (await scene.graph()).events[-1]
    await scene.alice.post(f"/rooms/{quote(scene.room_id)}/ban", {"user_id": BOB})
    graph = await scene.graph()
    ban = graph.events[-1]
    evasion = graph.say(BOB, "m.room.message", {"body": "still here"}, [before])
    follower = graph.say(DAN, "m.room.message", {"body": "I heard it"}, [evasion, ban])
    assert await scene.outcomes(evasion, follower) == [Outcome.SOFT_FAILED, Outcome.ACCEPTED]
    assert await scene.tips() == {follower.event_id}
    assert await scene.bodies() == ["I heard it"]


@pytest.mark.behaviours("SS-PDU-04", "SS-PDU-05")
async def test_what_is_not_allowed_is_rejected_and_changes_nothing(scene: Scene) -> None:
    graph = await scene.graph()
    tips = await scene.tips()
    usurped = graph.say(BOB, "m.room.power_levels", {"users": {BOB: 100}}, [graph.events[-1]], state_key="")
    stranger = graph.say(DAN, "m.room.message", {"body": "let me in"}, [graph.events[-2]])
    assert await scene.outcomes(usurped, stranger) == [Outcome.REJECTED, Outcome.REJECTED]
    assert BOB not in (await scene.state("m.room.power_levels"))["users"]
    assert await scene.tips() == tips
    # What follows a rejected event is not rejected for that, and stands on the state without it.
    said = graph.say(BOB, "m.room.message", {"body": "never mind"}, [usurped])
    assert await scene.outcomes(said) == [Outcome.ACCEPTED]
    assert await scene.tips() == {said.event_id}
    # What cites it as an auth event is.
    pdu = json.loads(graph.build(BOB, "m.room.topic", {"topic": "mine"}, [said], state_key="").pdu)
    pdu["auth_events"] = [usurped.event_id, graph.after[said.event_id]["m.room.member", BOB].event_id]
    assert (await scene.receive(_signed(pdu, "b.example")))[0].outcome == Outcome.REJECTED


def _signed(pdu: dict[str, Any], server: str) -> bytes:

    return sign_pdu(json.dumps(pdu).encode(), "12", server, room_graphs.key_of(server)).pdu


@pytest.mark.trust("C28", "S1")
@pytest.mark.behaviours("SS-PDU-01", "SS-PDU-02", "SS-PDU-03")
async def test_what_is_no_event_or_not_signed_is_dropped_and_what_was_altered_is_redacted(scene: Scene) -> None:
    graph = await scene.graph()
    said = graph.build(BOB, "m.room.message", {"body": "original"}, [graph.events[-1]])
    altered = json.loads(said.pdu)
    altered["content"] = {"body": "altered"}
    elsewhere = {**json.loads(said.pdu), "room_id": "!other:b.example"}
    unsigned = {**json.loads(said.pdu), "signatures": {}}
    forged = {**json.loads(said.pdu), "origin_server_ts": 1}
    many = {**json.loads(said.pdu), "prev_events": [f"${number}" for number in range(21)]}
    dropped = [b"", b"[]", b"{}", b"\xff", *(json.dumps(one).encode() for one in (elsewhere, unsigned, forged, many))]
    assert set(await scene.outcomes(*dropped)) == {Outcome.DROPPED}
    assert await scene.bodies() == []
    assert await scene.outcomes(json.dumps(altered).encode()) == [Outcome.ACCEPTED]
    page = (await scene.alice.get(f"/rooms/{quote(scene.room_id)}/event/{quote(said.event_id)}")).json()
    assert page["content"] == {}


@pytest.mark.trust("R4", "F47")
async def test_a_redaction_that_comes_first_redacts_what_comes_later(scene: Scene) -> None:
    graph = await scene.graph()
    start = graph.events[-1]
    said = graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "oh no"}, [start])
    redaction = graph.say(BOB, "m.room.redaction", {"redacts": said.event_id}, [start], redacts=said.event_id)
    other = graph.say(DAN, "m.room.redaction", {"redacts": said.event_id}, [start], redacts=said.event_id)
    assert await scene.outcomes(redaction, other) == [Outcome.ACCEPTED, Outcome.REJECTED]
    assert await scene.outcomes(said) == [Outcome.ACCEPTED]
    event = (await scene.alice.get(f"/rooms/{quote(scene.room_id)}/event/{quote(said.event_id)}")).json()
    assert event["content"] == {}
    assert event["unsigned"]["redacted_because"]["event_id"] == redaction.event_id


@pytest.mark.trust("R4")
async def test_a_redaction_by_somebody_without_the_power_is_accepted_and_does_nothing(scene: Scene) -> None:
    await scene.join(DAN)
    sent = await scene.alice.send(scene.room_id, "mine")
    graph = await scene.graph()
    redaction = graph.say(DAN, "m.room.redaction", {"redacts": sent}, [graph.events[-1]], redacts=sent)
    assert await scene.outcomes(redaction) == [Outcome.ACCEPTED]
    assert await scene.bodies() == ["mine"]


@pytest.mark.timeout(120)  # Hundreds of branches are resolved.
@pytest.mark.trust("C22", "R6")
@pytest.mark.behaviours("SS-PDU-06")
async def test_many_branches_are_tied_together_and_rooms_go_on(scene: Scene) -> None:
    graph = await scene.graph()
    start = graph.events[-1]
    many = [graph.build(BOB, "m.room.message", {"body": f"{number}"}, [start]) for number in range(120)]
    for event in many:
        graph.add(event, [start])
    assert set(await scene.outcomes(*many)) == {Outcome.ACCEPTED}
    assert len(await scene.tips()) <= 20
    sent = await scene.alice.send(scene.room_id, "one again")
    assert await scene.tips() == {sent}
    stored = await scene.graph()
    assert all(len(event.prev_events) <= 20 for event in stored.events)
    assert len(await scene.bodies()) >= 80


@pytest.mark.trust("R4", "F47")
async def test_a_gap_is_bridged_by_state_from_elsewhere_and_filled_later(scene: Scene) -> None:
    """What was cited first, as an outlier, and what is missing before an event, come into the timeline in the end."""
    graph = await scene.graph()
    start = graph.events[-1]
    joined = graph.say(DAN, "m.room.member", {"membership": "join"}, [start], state_key=DAN)
    lost = graph.say(DAN, "m.room.message", {"body": "lost"}, [joined])
    said = graph.say(DAN, "m.room.message", {"body": "found"}, [lost])
    [receipt] = await scene.receive(said)
    assert receipt.outcome == Outcome.WAITING
    inbox = scene.world.container.inbox
    assert receipt.missing == {lost.event_id, joined.event_id}
    [outlier] = await inbox.receive_outliers(RoomId(scene.room_id), [joined.pdu])
    assert outlier.outcome == Outcome.OUTLIER
    state = {pair: EventId(event.event_id) for pair, event in graph.before([lost]).items()}
    bridged = await inbox.receive_with_state(RoomId(scene.room_id), said.pdu, state)
    assert bridged.outcome == Outcome.ACCEPTED
    assert await scene.bodies() == ["found"]
    assert DAN in (await scene.alice.get(f"/rooms/{quote(scene.room_id)}/joined_members")).json()["joined"]
    database = scene.world.container.database
    room = await database.read(rooms.find, RoomId(scene.room_id))
    assert room is not None
    gaps = await database.read(event_graph.list_backward_extremities, room.room_nid)
    assert [event_id for event_id, _ in gaps] == [lost.event_id]
    assert await scene.outcomes(lost, joined) == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert sorted(await scene.bodies()) == ["found", "lost"]
    assert await database.read(event_graph.list_backward_extremities, room.room_nid) == []
    assert await scene.tips() == {said.event_id}
    sent = await scene.alice.send(scene.room_id, "all of it")
    assert await scene.tips() == {sent}


@pytest.mark.trust("F30", "F47")
async def test_what_was_looked_at_is_looked_at_again_after_somebody_elses_turn(scene: Scene) -> None:
    inbox, hot = scene.world.container.inbox, scene.world.container.hot
    graph = await scene.graph()
    first = graph.say(BOB, "m.room.message", {"body": "first"}, [graph.events[-1]])
    second = graph.say(BOB, "m.room.message", {"body": "second"}, [first])
    room = await hot.find(RoomId(scene.room_id))
    [looked_at] = await inbox.look_at({room: [first.pdu]})
    # The room stays as it is, but somebody waits now.
    assert await scene.outcomes(second) == [Outcome.WAITING]
    assert [receipt.outcome for receipt in await inbox.take(looked_at)] == [Outcome.ACCEPTED]
    assert await scene.bodies() == ["first", "second"]


@pytest.mark.trust("F30", "F47")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_room_is_not_taken_to_be_calm_while_an_event_begins_to_wait(scene: Scene) -> None:
    inbox, hot = scene.world.container.inbox, scene.world.container.hot
    graph = await scene.graph()
    tip = graph.events[-1]
    first = graph.say(BOB, "m.room.message", {"body": "first"}, [tip])
    second = graph.say(BOB, "m.room.message", {"body": "second"}, [first])
    other = graph.say(BOB, "m.room.message", {"body": "beside"}, [tip])
    is_writing, may_write = threading.Event(), threading.Event()

    def hold(tx: WriteTx) -> None:
        is_writing.set()
        assert may_write.wait(timeout=60)

    async def look() -> None:
        await until(is_writing.is_set)
        try:
            # What is being written is not to be seen yet.
            await inbox.look_at({await hot.find(RoomId(scene.room_id)): [other.pdu]})
        finally:
            may_write.set()

    receipts, _ = await asyncio.gather(
        inbox.receive(RoomId(scene.room_id), [second.pdu], first=FirstWrite(hold)), look()
    )
    assert [receipt.outcome for receipt in receipts] == [Outcome.WAITING]
    [looked_at] = await inbox.look_at({await hot.find(RoomId(scene.room_id)): [first.pdu]})
    await inbox.take(looked_at)
    assert await scene.bodies() == ["first", "second"]
