"""History from before what is known: fetched from other servers, put where it belongs, and news to nobody."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.outbound.transport import Reply
from homeserver.services.rooms.purge import Point
from homeserver.services.rooms.receipts import Outcome
from homeserver.storage import events
from tests.federation.network import Network, Peer, Seen
from tests.room_graphs import Graph
from tests.services.rooms.test_branches import BOB, DAN, Scene
from tests.world import User, World, until

pytestmark = pytest.mark.anyio

V1 = "/_matrix/federation/v1"


@dataclass
class Hole:
    """A public room of alice's on `a.test`, of which bob's server alone knows what was said last but one."""

    network: Network
    scene: Scene
    peer: Peer
    graph: Graph
    before: str
    """The newest event that alice saw happen."""
    missing: list[Event] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    """The events from which history was asked for."""

    @property
    def world(self) -> World:
        return self.scene.world

    @property
    def alice(self) -> User:
        return self.scene.alice

    @property
    def room(self) -> str:
        return self.scene.room_id

    def hide(self, event: Event) -> Event:
        """The event is among those that are missing."""
        self.missing.append(event)
        return event

    def say(self, count: int, prev: Event | None = None) -> Event:
        """Bob says something, again and again, that does not come."""
        last = prev or self.graph.by_id[self.before]
        for _ in range(count):
            body = {"msgtype": "m.text", "body": f"missing {len(self.missing)}"}
            last = self.hide(self.graph.say(BOB, "m.room.message", body, [last]))
        return last

    async def close(self, *prev: Event, known: Sequence[Event] | None = None) -> Event:
        """Something that follows comes with the state before it, but not what is before it.

        Of what is missing, these events of state are known, or all.
        """
        end = self.graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "behind the gap"}, list(prev))
        state = {pair: EventId(event.event_id) for pair, event in self.graph.before(list(prev)).items()}
        outliers = [one.pdu for one in known or self.graph.events if one.state_key is not None]
        await self.world.container.inbox.receive_outliers(RoomId(self.room), outliers)
        receipt = await self.world.container.inbox.receive_with_state(RoomId(self.room), end.pdu, state)
        assert receipt.outcome == Outcome.ACCEPTED, receipt
        return end

    def serve(self) -> None:
        """Let the peer tell what it knows."""
        self.peer.on("GET", f"{V1}/backfill/", self._backfill)
        self.peer.on("GET", f"{V1}/state_ids/", self._state_ids)
        self.peer.on("GET", f"{V1}/event/", self._event)
        self.peer.on("GET", f"{V1}/event_auth/", lambda seen: {"auth_chain": self._json(self.graph.events)})

    def _backfill(self, seen: Seen) -> Any:
        query = parse_qs(urlsplit(seen.target).query)
        self.asked.append(query["v"])
        found: dict[str, Event] = {}
        coming = [self.graph.by_id[one] for one in query["v"]]
        while coming:
            event = coming.pop(coming.index(max(coming, key=lambda one: one.depth)))
            if event.event_id not in found and len(found) < int(query["limit"][0]):
                found[event.event_id] = event
                coming += [self.graph.by_id[one] for one in event.prev_events]
        return {"origin": self.peer.name, "origin_server_ts": 1, "pdus": self._json(list(found.values()))}

    def _state_ids(self, seen: Seen) -> Any:
        [event_id] = parse_qs(urlsplit(seen.target).query)["event_id"]
        event = self.graph.by_id[event_id]
        state = self.graph.before([self.graph.by_id[one] for one in event.prev_events])
        return {"pdu_ids": [one.event_id for one in state.values()], "auth_chain_ids": []}

    def _event(self, seen: Seen) -> Any:
        event = self.graph.by_id[seen.target.rpartition("/")[2].replace("%24", "$")]
        return {"origin": self.peer.name, "origin_server_ts": 1, "pdus": self._json([event])}

    @staticmethod
    def _json(found: Sequence[Event]) -> list[Any]:
        return [json.loads(event.pdu) for event in found]

    async def page(self, **params: Any) -> tuple[list[Any], str | None]:
        answer = await self.alice.get(f"/rooms/{quote(self.room)}/messages", **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["chunk"], answer.json().get("end")

    async def read_back(self, *, limit: int = 10, since: str | None = None) -> list[Any]:
        """All that alice reads, from now back."""
        found: list[Any] = []
        token = since
        while True:
            chunk, token = await self.page(dir="b", limit=limit, **({} if token is None else {"from": token}))
            found += chunk
            if token is None:
                return found

    async def read_on(self, *, limit: int = 10) -> list[Any]:
        """All that alice reads, from the beginning on."""
        found: list[Any] = []
        token: str | None = None
        while True:
            chunk, token = await self.page(dir="f", limit=limit, **({} if token is None else {"from": token}))
            found += chunk
            if token is None:
                return found


def ids_of(found: Sequence[Any]) -> list[str]:
    return [event["event_id"] for event in found]


@pytest.fixture
async def hole(network: Network) -> Hole:
    a = await network.server("a.test")
    alice = await a.user("alice")
    peer, other = network.peer("b.example"), network.peer("c.example")
    for one in (peer, other):
        one.on("PUT", f"{V1}/send/", lambda seen: {"pdus": {}})  # Who does not answer is taken to be down.
    scene = Scene(a, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    before = await alice.send(scene.room_id, "before the gap")
    return Hole(network, scene, peer, await scene.graph(), before)


@pytest.mark.trust("I3", "F47")
async def test_history_is_put_where_it_belongs_and_is_no_news(hole: Hole) -> None:
    since = (await hole.alice.sync())["next_batch"]
    hole.serve()
    end = await hole.close(hole.say(50))
    room = (answer := await hole.alice.sync(since))["rooms"]["join"][hole.room]
    # What is missing may come later: a client has to ask for it.
    assert ids_of(room["timeline"]["events"]) == [end.event_id]
    assert room["timeline"]["limited"] is True
    since = answer["next_batch"]
    back = ids_of(await hole.read_back(since=room["timeline"]["prev_batch"]))
    everything = [event.event_id for event in hole.graph.events]
    assert back == everything[-2::-1]
    assert ids_of(await hole.read_back()) == everything[::-1]
    assert ids_of(await hole.read_on(limit=7)) == everything
    assert "rooms" not in await hole.alice.sync(since)
    assert len(hole.asked) < 6
    # What was fetched is in nobody's sync, not even in a first one.
    said = await hole.alice.send(hole.room, "later")
    whole = (await hole.alice.sync())["rooms"]["join"][hole.room]["timeline"]
    assert (ids_of(whole["events"]), whole["limited"]) == ([end.event_id, said], True)
    page, _ = await hole.page(dir="b", limit=3, **{"from": whole["prev_batch"]})
    assert ids_of(page) == everything[-2:-5:-1]


@pytest.mark.behaviours("SS-PDU-04")
@pytest.mark.trust("R5", "I5")
async def test_history_with_state_and_with_what_was_not_allowed_is_what_it_was(hole: Hole) -> None:
    levels = await hole.scene.state("m.room.power_levels")
    levels["users"] = {**levels["users"], BOB: 50}
    hole.before = await hole.alice.set_state(hole.room, "m.room.power_levels", levels)
    hole.graph = await hole.scene.graph()
    hole.serve()
    last, topics = hole.graph.by_id[hole.before], {}
    for topic in ("One", "Two", "Three"):
        last = hole.hide(hole.graph.say(BOB, "m.room.topic", {"topic": topic}, [last], state_key=""))
        last = hole.say(2, last)
        topics[last.event_id] = topic
        # Nobody of this name is in the room, nor may bob do that; what follows is as good as it would be without.
        for sender, kind, key in (("@eve:b.example", "m.room.message", None), (BOB, "m.room.power_levels", "")):
            content = {"body": "bad", "users": {BOB: 100}}
            last = hole.hide(hole.graph.say(sender, kind, content, [last], state_key=key))
            assert last.event_id in hole.graph.rejected
        last = hole.say(1, last)
        topics[last.event_id] = topic
    await hole.close(last, known=[*hole.graph.before([last]).values()])
    everything = [event.event_id for event in hole.graph.events if event.event_id not in hole.graph.rejected]
    assert ids_of(await hole.read_back(limit=50)) == everything[::-1]
    for event_id, topic in topics.items():
        context = (await hole.alice.get(f"/rooms/{quote(hole.room)}/context/{quote(event_id)}", limit="0")).json()
        assert [one["content"] for one in context["state"] if one["type"] == "m.room.topic"] == [{"topic": topic}]
    await hole.world.fsck()


@pytest.mark.trust("F47")
async def test_history_comes_while_the_page_before_it_is_read(hole: Hole) -> None:
    hole.serve()
    end = await hole.close(hole.say(60))
    said = [await hole.alice.send(hole.room, f"later {number}") for number in range(8)]
    page, token = await hole.page(dir="b", limit=5)
    assert ids_of(page) == said[:2:-1]
    assert token is not None
    await until(lambda: len(hole.asked) == 1)
    page, _ = await hole.page(dir="b", limit=5, **{"from": token})
    assert ids_of(page) == [*said[2::-1], end.event_id, hole.missing[-1].event_id]


async def test_context_reaches_beyond_the_gap(hole: Hole) -> None:
    hole.serve()
    end = await hole.close(hole.say(5))
    answer = (await hole.alice.get(f"/rooms/{quote(hole.room)}/context/{quote(end.event_id)}", limit="6")).json()
    assert ids_of(answer["events_before"]) == [event.event_id for event in hole.missing[:1:-1]]
    page, _ = await hole.page(dir="b", limit=3, **{"from": answer["start"]})
    assert ids_of(page) == [hole.missing[1].event_id, hole.missing[0].event_id, hole.before]


async def test_a_time_in_the_gap_is_found(hole: Hole) -> None:
    hole.serve()
    await hole.close(hole.say(5))
    middle = hole.missing[2]
    nearest = {"event_id": middle.event_id, "origin_server_ts": middle.origin_server_ts}
    hole.peer.on("GET", f"{V1}/timestamp_to_event/", lambda seen: nearest)
    path = f"/v1/rooms/{quote(hole.room)}/timestamp_to_event"
    answer = (await hole.alice.get(path, ts=str(middle.origin_server_ts), dir="f")).json()
    assert answer == nearest


async def test_a_time_before_this_server_came_is_found(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    said = await alice.send(room_id, "hello")
    network.clock.advance(60)
    answer = await bob.call("POST", f"/join/{quote(room_id)}", {}, params={"via": "a.test"})
    assert answer.status_code == 200, answer.text
    path = f"/v1/rooms/{quote(room_id)}/timestamp_to_event"
    found = await bob.get(path, ts=str(network.clock.now() - 30_000), dir="b")
    assert found.json()["event_id"] == said, found.text


async def test_branches_of_the_past_stand_behind_what_they_follow(hole: Hole) -> None:
    hole.serve()
    base = hole.say(3)
    left, right = hole.say(15, base), hole.say(10, base)
    end = await hole.close(left, right)
    back = ids_of(await hole.read_back())
    assert set(back) == set(hole.graph.by_id)
    place = {event_id: -number for number, event_id in enumerate(back)}
    for event in hole.graph.events:
        assert all(place[one] < place[event.event_id] for one in event.prev_events)
    assert back[0] == end.event_id
    assert ids_of(await hole.read_on()) == back[::-1]


@pytest.mark.trust("I3")
async def test_the_past_changes_nothing_of_the_present(hole: Hole) -> None:
    await hole.scene.join(DAN)
    hole.graph = await hole.scene.graph()
    call = hole.hide(hole.graph.say(BOB, "m.room.message", {"body": "@alice:a.test: wake up"}, [hole.graph.events[-1]]))
    left = hole.hide(hole.graph.say(DAN, "m.room.member", {"membership": "leave"}, [call], state_key=DAN))
    back = hole.hide(hole.graph.say(DAN, "m.room.member", {"membership": "join"}, [left], state_key=DAN))
    named = hole.hide(
        hole.graph.say(DAN, "m.room.member", {"membership": "join", "displayname": "Dan"}, [back], state_key=DAN)
    )
    hole.serve()
    await hole.close(named)
    before = await hole.alice.sync()
    members = (await hole.alice.get(f"/rooms/{quote(hole.room)}/members")).json()["chunk"]
    tips = await hole.scene.tips()
    assert {left.event_id, back.event_id} <= set(ids_of(await hole.read_back()))
    answer = await hole.alice.get(f"/rooms/{quote(hole.room)}/members")
    assert ids_of(answer.json()["chunk"]) == ids_of(members)
    assert await hole.scene.tips() == tips
    assert "rooms" not in await hole.alice.sync(before["next_batch"])
    room, again = (one["rooms"]["join"][hole.room] for one in (before, await hole.alice.sync()))
    assert room["summary"] == again["summary"]
    assert room["unread_notifications"] == again["unread_notifications"]
    # To have read something of the past is not to have read all that came since.
    await hole.alice.post(f"/rooms/{quote(hole.room)}/receipt/m.read/{quote(call.event_id)}")
    ends = [hole.graph.by_id[one] for one in tips]
    said = hole.graph.say(BOB, "m.room.message", {"body": "news"}, ends)
    assert await hole.scene.outcomes(said) == [Outcome.ACCEPTED]
    room = (await hole.alice.sync(before["next_batch"]))["rooms"]["join"][hole.room]
    assert (
        room["unread_notifications"]["notification_count"]
        == 1 + before["rooms"]["join"][hole.room]["unread_notifications"]["notification_count"]
    )
    await hole.alice.post(f"/rooms/{quote(hole.room)}/receipt/m.read/{quote(said.event_id)}")
    await hole.alice.post(f"/rooms/{quote(hole.room)}/receipt/m.read/{quote(call.event_id)}")
    room = (await hole.alice.sync())["rooms"]["join"][hole.room]
    assert room["unread_notifications"]["notification_count"] == 0


async def test_what_is_past_notifies_nobody(hole: Hole) -> None:
    carol = await hole.world.user("carol")
    await carol.join(hole.room)
    hole.graph = await hole.scene.graph()
    hole.before = hole.graph.events[-1].event_id
    hole.serve()
    await hole.close(hole.say(3))
    assert len(await hole.read_back()) == len(hole.graph.events)
    room = (await carol.sync())["rooms"]["join"][hole.room]
    assert room["unread_notifications"]["notification_count"] == 1
    listed = (await carol.get("/notifications")).json()["notifications"]
    assert [one["event"]["content"]["body"] for one in listed] == ["behind the gap"]


async def test_redactions_and_relations_of_the_past_count(hole: Hole) -> None:
    hole.serve()
    root = hole.hide(hole.graph.say(BOB, "m.room.message", {"body": "root"}, [hole.graph.by_id[hole.before]]))
    wrong = hole.hide(hole.graph.say(BOB, "m.room.message", {"body": "wrong"}, [root]))
    in_thread = {"body": "first", "m.relates_to": {"rel_type": "m.thread", "event_id": root.event_id}}
    first = hole.hide(hole.graph.say(BOB, "m.room.message", in_thread, [wrong]))
    content = {"redacts": wrong.event_id}
    redaction = hole.hide(hole.graph.say(BOB, "m.room.redaction", content, [first]))
    own = hole.hide(hole.graph.say(BOB, "m.room.redaction", {"redacts": hole.before}, [redaction]))
    await hole.close(own)
    found = {event["event_id"]: event for event in await hole.read_back()}
    assert found[wrong.event_id]["content"] == {}
    assert found[wrong.event_id]["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
    assert found[hole.before]["content"]["body"] == "before the gap"  # Bob may not redact what alice says.
    thread = found[root.event_id]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, first.event_id)
    later = {"msgtype": "m.text", "body": "second", "m.relates_to": in_thread["m.relates_to"]}
    second = await hole.alice.send(hole.room, later)
    path = f"/v1/rooms/{quote(hole.room)}/relations/{quote(root.event_id)}"
    assert ids_of((await hole.alice.get(path)).json()["chunk"]) == [second, first.event_id]
    threads = (await hole.alice.get(f"/v1/rooms/{quote(hole.room)}/threads")).json()["chunk"]
    assert ids_of(threads) == [root.event_id]
    assert threads[0]["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == second


async def test_where_nobody_answers_what_is_known_is_read(hole: Hole) -> None:
    end = await hole.close(hole.say(5))
    everything = [event.event_id for event in hole.graph.events if event not in hole.missing]
    hole.network.cut("b.example")
    assert ids_of(await hole.read_back()) == everything[::-1]
    hole.network.heal("b.example")
    hole.serve()
    # It is not asked again at once.
    assert ids_of(await hole.read_back()) == everything[::-1]
    assert hole.asked == []
    hole.network.clock.advance(60)
    assert ids_of(await hole.read_back()) == [event.event_id for event in hole.graph.events[::-1]]
    assert end.event_id not in hole.asked[0]


def garbage(hole: Hole) -> Sequence[Any]:
    """Answers to a request for history that are of no use."""
    stuffing = [json.loads(one.pdu) for one in hole.graph.events[:3]]
    unsigned = [{**json.loads(one.pdu), "signatures": {}} for one in hole.missing]
    elsewhere = [{**json.loads(one.pdu), "room_id": "!other:b.example"} for one in hole.missing]
    return [
        Reply(200, {}, b"<html>"),
        Reply(500, {}, b"{}"),
        Reply(401, {}, b'{"errcode": "M_UNKNOWN_TOKEN", "error": "Go away"}'),
        {},
        {"pdus": {}},
        {"pdus": [1, "x", None, []]},
        {"pdus": []},
        {"pdus": stuffing},
        {"pdus": unsigned},
        {"pdus": elsewhere},
        # Nobody asked for these, as nothing is known to follow them.
        {"pdus": [json.loads(one.pdu) for one in hole.missing[:-1]]},
    ]


@pytest.mark.trust("C23", "F25", "C28")
async def test_answers_that_are_of_no_use_do_no_harm(hole: Hole) -> None:
    await hole.close(hole.say(5))
    everything = [event.event_id for event in hole.graph.events if event not in hole.missing]
    for content in garbage(hole):
        hole.peer.on("GET", f"{V1}/backfill/", _always(content))
        assert ids_of(await hole.read_back()) == everything[::-1]
        hole.network.clock.advance(2 * 60 * 60)
    # Without a state nothing can be said of events whose predecessors are not known.
    hole.serve()
    hole.peer.on("GET", f"{V1}/backfill/", _always({"pdus": [json.loads(one.pdu) for one in hole.missing[3:]]}))
    hole.peer.on("GET", f"{V1}/state_ids/", _always({"pdu_ids": ["", "$" * 300, "\0"], "auth_chain_ids": []}))
    assert ids_of(await hole.read_back()) == everything[::-1]
    hole.serve()
    hole.network.clock.advance(2 * 60 * 60)
    assert len(await hole.read_back()) == len(hole.graph.events)


def _always(content: Any) -> Callable[[Seen], Any]:
    return lambda seen: content


@pytest.mark.trust("C23")
async def test_history_without_end_is_fetched_no_further_than_it_is_read(hole: Hole) -> None:
    hole.serve()
    await hole.close(hole.say(400))
    page, token = await hole.page(dir="b", limit=10)
    assert len(page) == 10
    assert len(hole.asked) <= 2
    requests = [seen for seen in hole.peer.seen if "/state" in seen.target or "/event" in seen.target]
    assert len(requests) <= 4
    assert await _known(hole) < 200
    assert token is not None


async def _known(hole: Hole) -> int:
    ids = [EventId(event.event_id) for event in hole.missing]
    return len(await hole.world.container.database.read(events.find_positions, ids))


@pytest.mark.trust("C28")
async def test_what_was_not_allowed_then_is_not_shown_now(hole: Hole) -> None:
    hole.serve()
    said = hole.say(1)
    usurped = hole.hide(hole.graph.say(BOB, "m.room.power_levels", {"users": {BOB: 100}}, [said], state_key=""))
    stranger = hole.hide(hole.graph.say(DAN, "m.room.message", {"body": "let me in"}, [usurped]))
    altered = hole.say(1, stranger)
    end = await hole.close(altered)
    found = {event["event_id"]: event for event in await hole.read_back()}
    assert {said.event_id, altered.event_id, end.event_id} <= found.keys()
    assert not {usurped.event_id, stranger.event_id} & found.keys()
    assert BOB not in (await hole.scene.state("m.room.power_levels"))["users"]


@pytest.mark.trust("F47")
async def test_who_was_banned_since_is_heard_with_what_was_said_before(hole: Hole) -> None:
    hole.serve()
    await hole.close(hole.say(3))
    answer = await hole.alice.post(f"/rooms/{quote(hole.room)}/ban", {"user_id": BOB})
    assert answer.status_code == 200
    page = ids_of(await hole.read_back())
    assert [event.event_id for event in hole.missing] == [one for one in reversed(page) if one in ids(hole.missing)]


def ids(found: Sequence[Event]) -> set[str]:
    return {event.event_id for event in found}


async def test_what_was_purged_is_not_fetched_again(hole: Hole) -> None:
    hole.serve()
    end = await hole.close(hole.say(30))
    await hole.page(dir="b", limit=10)
    purge = hole.world.container.purge
    await purge.start(RoomId(hole.room), Point(event_id=EventId(hole.missing[25].event_id)))
    await purge.work(is_server=True)
    asked = len(hole.asked)
    page = ids_of(await hole.read_back())
    # A forward extremity outlives a purge.
    assert page == [end.event_id, *(event.event_id for event in hole.missing[:24:-1]), hole.before]
    assert len(hole.asked) == asked
    assert ids_of(await hole.read_on()) == page[::-1]


@pytest.mark.trust("I3", "F47")
async def test_an_outlier_that_is_placed_later_is_told_once(hole: Hole) -> None:
    levels = await hole.scene.state("m.room.power_levels")
    await hole.alice.set_state(hole.room, "m.room.power_levels", {**levels, "state_default": 0, "events": {}})
    hole.graph = await hole.scene.graph()
    topic = hole.graph.say(BOB, "m.room.topic", {"topic": "late"}, [hole.graph.events[-1]], state_key="")
    [receipt] = await hole.world.container.inbox.receive_outliers(RoomId(hole.room), [topic.pdu])
    assert receipt.outcome == Outcome.OUTLIER
    said = await hole.alice.send(hole.room, "meanwhile")
    since = (await hole.alice.sync())["next_batch"]
    assert await hole.scene.outcomes(topic) == [Outcome.ACCEPTED]
    answer = await hole.alice.sync(since)
    room = answer["rooms"]["join"][hole.room]
    assert ids_of(room["timeline"]["events"]) == [topic.event_id]
    assert "rooms" not in await hole.alice.sync(answer["next_batch"])
    assert ids_of(await hole.read_back())[:2] == [topic.event_id, said]
    assert ids_of(await hole.read_on())[-2:] == [said, topic.event_id]


@pytest.mark.trust("F47")
async def test_people_read_what_was_said_before_their_server_came(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    said = [await alice.send(room_id, f"number {number}") for number in range(25)]
    answer = await bob.call("POST", f"/join/{quote(room_id)}", {}, params={"via": "a.test"})
    assert answer.status_code == 200, answer.text
    back: list[str] = []
    token = (await bob.sync())["rooms"]["join"][room_id]["timeline"]["prev_batch"]
    while token:
        page = (await bob.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit="10", **{"from": token})).json()
        back += ids_of(page["chunk"])
        token = page.get("end", "")
    theirs = (await alice.get(f"/rooms/{quote(room_id)}/messages", dir="f", limit="100")).json()["chunk"]
    assert back[::-1] == ids_of(theirs)[:-1]
    ours = (await bob.get(f"/rooms/{quote(room_id)}/messages", dir="f", limit="100")).json()["chunk"]
    assert ids_of(ours) == ids_of(theirs)
    assert set(said) < set(back)
