"""Deliveries of other servers: what is answered, what is taken in, and that nothing is done twice."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from homeserver.config.model import Config, Federation
from homeserver.errors import Conflict
from homeserver.matrix.canonical import canonicalize, sha256_base64
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.server_keys import publish
from homeserver.matrix.signing import sign_json
from homeserver.services.rooms.intake import FirstWrite
from homeserver.storage import deliveries, events, rooms, stream_rows
from homeserver.storage.deliveries import Answered
from homeserver.storage.engine import ReadTx, WriteTx
from tests import room_graphs
from tests.federation.foreign import bring_in
from tests.federation.network import Link, Network, Peer
from tests.processes import server
from tests.room_graphs import Graph, key_of
from tests.services.rooms.test_branches import BOB, DAN, Scene
from tests.world import eventually, running, settings

pytestmark = pytest.mark.anyio

CAT = "@cat:b.example"
SEND = "/_matrix/federation/v1/send/"
DAY = 24 * 60 * 60 * 1000


@dataclass
class Stage:
    """A public room of alice's on `a.test`, with bob and cat of the peer `b.example` in it."""

    network: Network
    scene: Scene
    peer: Peer

    @property
    def room(self) -> str:
        return self.scene.room_id

    async def graph(self) -> Graph:
        return await self.scene.graph()

    async def say(self, body: str) -> Event:
        """A message of bob's that follows all there is."""
        graph = await self.graph()
        return graph.say(BOB, "m.room.message", {"body": body}, [graph.events[-1]])

    async def put(self, txn_id: str, body: Any, *, peer: Peer | None = None) -> tuple[int, Any]:
        answer = await (peer or self.peer).call("a.test", "PUT", SEND + txn_id, body)
        return answer.status_code, answer.json()

    def body(self, *pdus: bytes, edus: list[Any] | None = None, origin: str = "b.example") -> dict[str, Any]:
        return {
            "origin": origin,
            "origin_server_ts": self.network.clock.now(),
            "pdus": [json.loads(pdu) for pdu in pdus],
            "edus": edus or [],
        }


@pytest.fixture
async def stage(network: Network, request: pytest.FixtureRequest) -> Stage:
    a = await network.server("a.test", federation=getattr(request, "param", Federation()))
    alice = await a.user("alice")
    peer = network.peer("b.example")
    scene = Scene(a, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    await scene.join(CAT)
    return Stage(network, scene, peer)


@pytest.mark.behaviours("SS-TXN-02", "SS-PDU-01")
async def test_delivered_events_reach_users(stage: Stage) -> None:
    graph = await stage.graph()
    said = []
    for number in range(3):
        said.append(graph.say(BOB, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]))
    results = await stage.peer.send("a.test", "1", *(event.pdu for event in said))
    assert results == {event.event_id: {} for event in said}
    assert await stage.scene.bodies() == ["0", "1", "2"]


@pytest.mark.behaviours("SS-TXN-01")
@pytest.mark.trust("C18", "R6")
async def test_delivery_over_the_limits_is_refused(stage: Stage) -> None:
    said = await stage.say("hello")
    edu = {"edu_type": "org.example.nothing", "content": {}}
    assert (await stage.put("1", stage.body(*[said.pdu] * 51)))[0] == 413
    assert (await stage.put("2", stage.body(edus=[edu] * 101)))[0] == 413
    assert (await stage.put("3", stage.body(said.pdu, edus=[{**edu, "content": {"a": "b" * (10 << 20)}}])))[0] == 413
    assert await stage.scene.bodies() == []
    status, answer = await stage.put("4", stage.body(*[said.pdu] * 50, edus=[edu] * 100))
    assert (status, answer) == (200, {"pdus": {said.event_id: {}}})
    assert await stage.scene.bodies() == ["hello"]


@pytest.mark.behaviours("SS-TXN-01")
@pytest.mark.trust("C18", "R6")
async def test_delivery_of_many_small_things_is_refused(stage: Stage) -> None:
    for pdus, edus in (([1] * 1000, []), ([], [{}] * 1000), ([1] * 2_000_000, [])):
        body = {"origin": "b.example", "origin_server_ts": 1, "pdus": pdus, "edus": edus}
        status, answer = await stage.put("1", body)
        assert (status, answer["errcode"]) == (413, "M_TOO_LARGE")


@pytest.mark.trust("C18", "C27")
async def test_fifty_events_of_full_size_are_taken(stage: Stage) -> None:
    graph = await stage.graph()
    said = [graph.say(BOB, "m.room.message", {"body": "x" * 62_000}, [graph.events[-1]]) for _ in range(50)]
    results = await stage.peer.send("a.test", "1", *(event.pdu for event in said))
    assert results == {event.event_id: {} for event in said}


@pytest.mark.behaviours("SS-TXN-05")
@pytest.mark.trust("S1")
async def test_delivery_in_the_name_of_another_server_is_refused(stage: Stage) -> None:
    said = await stage.say("hello")
    other = stage.network.peer("c.example")
    status, answer = await stage.put("1", stage.body(said.pdu), peer=other)
    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")
    assert await stage.scene.bodies() == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"origin": "b.example"}',
        b'{"origin": "b.example", "pdus": {}}',
        b'{"origin": "b.example", "pdus": [], "edus": 1}',
        b'{"origin": 5, "pdus": []}',
    ],
)
async def test_delivery_that_is_none_is_refused(stage: Stage, body: bytes) -> None:
    status, answer = await stage.put("1", body)
    assert (status, answer["errcode"][:2]) == (400, "M_")


@pytest.mark.behaviours("SS-TXN-04")
@pytest.mark.trust("C03", "R2")
async def test_repeated_delivery_is_answered_alike_and_does_nothing(stage: Stage) -> None:
    first, refused = await stage.say("first"), await stage.say("refused")
    spoiled = json.loads(refused.pdu)
    spoiled["signatures"]["b.example"] = dict.fromkeys(spoiled["signatures"]["b.example"], "A" * 86)
    body = stage.body(first.pdu, json.dumps(spoiled).encode())
    status, answer = await stage.put("1", body)
    assert status == 200
    assert answer["pdus"][first.event_id] == {}
    assert "error" in answer["pdus"][refused.event_id]
    assert await stage.put("1", body) == (200, answer)
    # Another delivery under the old name is not looked at.
    second = await stage.say("second")
    assert await stage.put("1", stage.body(second.pdu)) == (200, answer)
    await stage.network.stop("a.test")
    a = await stage.network.server("a.test")
    assert await stage.put("1", stage.body(second.pdu)) == (200, answer)
    scene = Scene(a, stage.scene.alice, stage.room)
    scene.alice.client = a.client
    assert await scene.bodies() == ["first"]
    # Names are each server's own.
    other = stage.network.peer("c.example")
    assert await stage.put("1", stage.body(origin="c.example"), peer=other) == (200, {"pdus": {}})


@pytest.mark.behaviours("SS-TXN-04", "SS-PDU-04")
@pytest.mark.trust("C03", "R2")
async def test_event_that_was_refused_stays_refused_though_it_follows_all_there_is(stage: Stage) -> None:
    graph = await stage.graph()
    first = graph.say(BOB, "m.room.message", {"body": "first"}, [graph.events[-1]])
    assert await stage.peer.send("a.test", "1", first.pdu) == {first.event_id: {}}
    refused = graph.build("@nobody:b.example", "m.room.message", {"body": "refused"}, [first])
    for txn_id in ("2", "3", "4"):
        results = await stage.peer.send("a.test", txn_id, refused.pdu)
        assert "error" in results[refused.event_id]
    second = graph.say(BOB, "m.room.message", {"body": "second"}, [first])
    assert await stage.peer.send("a.test", "5", second.pdu) == {second.event_id: {}}
    assert await stage.scene.bodies() == ["first", "second"]


@pytest.mark.behaviours("SS-PDU-04")
async def test_event_that_was_known_because_others_cite_it_comes_into_the_timeline(stage: Stage) -> None:
    graph = await stage.graph()
    said = [graph.say(BOB, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]) for number in range(3)]
    await stage.peer.send("a.test", "1", said[0].pdu)
    await stage.scene.world.container.inbox.receive_outliers(RoomId(stage.room), [one.pdu for one in said[1:]])
    for number, event in enumerate(said[1:]):
        assert await stage.peer.send("a.test", f"later{number}", event.pdu) == {event.event_id: {}}
    assert await stage.scene.bodies() == ["0", "1", "2"]


@pytest.mark.behaviours("SS-TXN-04")
@pytest.mark.trust("C03", "R2", "F47")
async def test_delivery_that_is_made_twice_at_once_is_taken_once(stage: Stage) -> None:
    said = await stage.say("hello")
    body = stage.body(said.pdu)
    answers = await asyncio.gather(*(stage.put("1", body) for _ in range(4)), stage.put("2", body))
    assert answers == [(200, {"pdus": {said.event_id: {}}})] * 5
    assert await stage.scene.bodies() == ["hello"]


@pytest.mark.behaviours("SS-TXN-02", "SS-PDU-04")
@pytest.mark.trust("R5")
async def test_bad_event_is_told_and_does_not_fail_its_neighbours(stage: Stage) -> None:
    graph = await stage.graph()
    tip = graph.events[-1]
    good = graph.say(BOB, "m.room.message", {"body": "good"}, [tip])
    not_allowed = graph.build("@nobody:b.example", "m.room.message", {"body": "bad"}, [tip])
    other_room = room_graphs.begin("12", 5).events[-1]
    late = graph.say(BOB, "m.room.message", {"body": "late"}, [good])
    nothing = [b"[]", b"7", b"{}", b'{"room_id": 5}', json.dumps({"room_id": stage.room}).encode()]
    results = await stage.peer.send(
        "a.test",
        "1",
        *nothing,
        not_allowed.pdu,
        other_room.pdu,
        good.pdu,
        json.dumps({"room_id": "!x"}).encode(),
        late.pdu,
    )
    assert results.pop(good.event_id) == {}
    assert results.pop(late.event_id) == {}
    assert "error" in results.pop(not_allowed.event_id)
    assert "error" in results.pop(other_room.event_id)
    assert results == {}
    assert await stage.scene.bodies() == ["good", "late"]


@pytest.mark.parametrize(
    "change",
    [
        {"type": "m.\u0000"},
        {"state_key": "\u0000"},
        {"sender": "@b\u0000ob:b.example"},
        {"sender": "bob"},
        {"depth": -1},
        {"depth": 2**63},
        {"origin_server_ts": "now"},
        {"prev_events": []},
        {"prev_events": "all"},
        {"auth_events": [["$a", {}]]},
        {"content": []},
        {"signatures": {"b.example": {"ed25519:\u0000": "A"}}},
        {"signatures": {"b.example": []}},
        {"signatures": 1},
        {"hashes": None},
        {"unsigned": {"age": float(10**20)}},
        {"content": {"body": 1.5}},
    ],
)
@pytest.mark.trust("C24", "R5", "R8")
@pytest.mark.by_turns
async def test_event_of_odd_shape_is_dropped_and_nothing_else(stage: Stage, change: dict[str, Any]) -> None:
    odd = json.loads((await stage.say("odd")).pdu)
    odd.update(change)
    said = await stage.say("hello")
    results = await stage.peer.send("a.test", "1", json.dumps(odd).encode(), said.pdu)
    assert results[said.event_id] == {}
    assert all("error" in result for event_id, result in results.items() if event_id != said.event_id)
    assert await stage.scene.bodies() == ["hello"]


@pytest.mark.behaviours("SS-PDU-09")
async def test_what_is_not_signed_is_not_passed_on(stage: Stage) -> None:
    odd = json.loads((await stage.say("hello")).pdu)
    unsigned = {
        "age": 7,
        "transaction_id": "mine",
        "prev_content": {},
        "redacted_because": {"type": "m.room.redaction"},
    }
    odd["unsigned"] = unsigned
    odd["age_ts"] = 5
    results = await stage.peer.send("a.test", "1", json.dumps(odd).encode())
    [event_id] = results
    event = (await stage.scene.alice.get(f"/rooms/{stage.room}/event/{event_id}")).json()
    assert not event.get("unsigned", {}).keys() & {"transaction_id", "prev_content", "redacted_because"}
    assert event["unsigned"]["age"] != 7


@pytest.mark.trust("C30")
@pytest.mark.behaviours("SS-PDU-02")
async def test_event_in_the_form_of_another_room_version_is_dropped(stage: Stage) -> None:
    odd = json.loads((await stage.say("odd")).pdu)
    old = {**odd, "event_id": "$old:b.example"}
    for name in ("prev_events", "auth_events"):
        old[name] = [[event_id, {"sha256": "A"}] for event_id in odd[name]]
    without_room = {name: value for name, value in odd.items() if name != "room_id"}
    results = await stage.peer.send("a.test", "1", json.dumps(old).encode(), json.dumps(without_room).encode())
    assert results == {}
    assert await stage.scene.bodies() == []


@pytest.mark.trust("C22")
async def test_event_that_names_too_many_others_is_dropped(stage: Stage) -> None:
    said = json.loads((await stage.say("hello")).pdu)
    for txn, name, count in (("1", "prev_events", 21), ("2", "auth_events", 11)):
        many = {**said, name: [f"$event{number}" for number in range(count)]}
        results = await stage.peer.send("a.test", txn, json.dumps(many).encode())
        assert [result["error"] for result in results.values()] == ["The event names too many events before it."]


@pytest.mark.trust("C27")
async def test_event_that_is_too_large_is_dropped(stage: Stage) -> None:
    odd = json.loads((await stage.say("large")).pdu)
    odd["content"]["body"] = "x" * 65_536
    said = await stage.say("hello")
    results = await stage.peer.send("a.test", "1", json.dumps(odd).encode(), said.pdu)
    assert results == {said.event_id: {}}


def by_hand(pdu: dict[str, Any]) -> bytes:
    """A PDU hashed and signed step by step, whatever its size is."""
    bare = {name: value for name, value in pdu.items() if name not in ("hashes", "signatures", "unsigned")}
    hashed = bare | {"hashes": {"sha256": sha256_base64(canonicalize(json.dumps(bare).encode()))}}
    kept = hashed | {"content": {}}  # Nothing of a message stays when it is redacted.
    signed = json.loads(sign_json(json.dumps(kept).encode(), "b.example", key_of("b.example")))
    return canonicalize(json.dumps(hashed | {"signatures": signed["signatures"]}).encode())


@pytest.mark.trust("C27")
async def test_sizes_are_judged_to_the_byte(stage: Stage) -> None:
    graph = await stage.graph()
    plain = json.loads(graph.build(BOB, "m.room.message", {"body": ""}, [graph.events[-1]]).pdu)
    most = 65_536
    for size, is_taken in ((most - 1, True), (most, True), (most + 1, False)):
        pdu = by_hand(plain | {"content": {"body": "x" * (size - len(by_hand(plain)))}})
        assert len(pdu) == size
        results = await stage.peer.send("a.test", f"{size}", pdu)
        assert ({} in results.values()) == is_taken, (size, results)
    for kind, is_taken in (("é" * 127, True), ("é" * 127 + "a", True), ("é" * 128, False), ("a" * 256, False)):
        results = await stage.peer.send("a.test", f"k{len(kind)}{is_taken}", by_hand(plain | {"type": kind}))
        assert ({} in results.values()) == is_taken, (kind, results)


@pytest.mark.trust("C28")
@pytest.mark.behaviours("SS-PDU-08")
async def test_event_with_another_hash_is_taken_redacted_and_never_replaces_what_is_whole(stage: Stage) -> None:
    whole = await stage.say("whole")
    await stage.peer.send("a.test", "1", whole.pdu)
    changed = json.loads((await stage.say("said")).pdu)
    event_id = Event.parse(json.dumps(changed).encode(), "12").event_id
    changed["content"] = {"body": "not said"}
    again = json.loads(whole.pdu)
    again["content"] = {"body": "not said"}
    results = await stage.peer.send("a.test", "2", json.dumps(changed).encode(), json.dumps(again).encode())
    assert results == {event_id: {}, whole.event_id: {}}
    assert await stage.scene.bodies() == ["whole", ""]


@pytest.mark.behaviours("SS-PDU-07")
@pytest.mark.trust("R5")
async def test_event_that_waits_is_not_forgotten_over_one_that_is_none(stage: Stage) -> None:
    graph = await stage.graph()
    first = graph.say(BOB, "m.room.message", {"body": "first"}, [graph.events[-1]])
    second = graph.say(BOB, "m.room.message", {"body": "second"}, [first])
    assert await stage.peer.send("a.test", "1", second.pdu) == {second.event_id: {}}
    assert await stage.peer.send("a.test", "2", json.dumps({"room_id": stage.room}).encode()) == {}
    assert await stage.peer.send("a.test", "3", first.pdu) == {first.event_id: {}}
    assert await stage.scene.bodies() == ["first", "second"]


@pytest.mark.trust("C29")
@pytest.mark.behaviours("SS-PDU-05")
async def test_event_that_evades_a_ban_is_taken_and_not_shown(stage: Stage) -> None:
    graph = await stage.graph()
    before = graph.events[-1]
    answer = await stage.scene.alice.post(f"/rooms/{stage.room}/ban", {"user_id": CAT})
    assert answer.status_code == 200
    evading = graph.build(CAT, "m.room.message", {"body": "still here"}, [before])
    results = await stage.peer.send("a.test", "1", evading.pdu)
    assert results == {evading.event_id: {}}
    assert await stage.scene.bodies() == []
    assert await status_of(stage, evading) == events.SOFT_FAILED
    assert evading.event_id not in await stage.scene.tips()


async def status_of(stage: Stage, event: Event) -> int | None:
    def look(tx: ReadTx) -> int | None:
        found = events.find_standings_by_id(tx, [EventId(event.event_id)]).get(EventId(event.event_id))
        return None if found is None else found.status

    return await stage.scene.world.container.database.read(look)


@pytest.mark.behaviours("SS-ACL-02")
async def test_server_that_the_room_keeps_out_delivers_nothing_to_it(stage: Stage) -> None:
    said = await stage.say("hello")
    other = await stage.scene.alice.create_room(preset="public_chat")
    acl = {"allow": ["*"], "deny": ["B.EXAMPLE"]}
    await stage.scene.alice.set_state(stage.room, "m.room.server_acl", acl)
    results = await stage.peer.send("a.test", "1", said.pdu)
    assert "error" in results[said.event_id]
    assert await stage.scene.bodies() == []
    scene = Scene(stage.scene.world, stage.scene.alice, other)
    await scene.join(BOB)
    graph = await scene.graph()
    there = graph.say(BOB, "m.room.message", {"body": "there"}, [graph.events[-1]])
    assert await stage.peer.send("a.test", "2", said.pdu, there.pdu) == {
        said.event_id: results[said.event_id],
        there.event_id: {},
    }


async def test_room_that_everybody_here_has_left_takes_no_events(stage: Stage) -> None:
    await stage.scene.alice.post(f"/rooms/{stage.room}/leave")
    said = await stage.say("hello")
    results = await stage.peer.send("a.test", "1", said.pdu)
    assert results == {said.event_id: {"error": "This server is not in the room."}}


@pytest.mark.behaviours("SS-TXN-02")
@pytest.mark.parametrize("version", ["1", "3", "10", "12"])
async def test_event_of_a_room_that_is_not_known_is_told_so(stage: Stage, version: str) -> None:
    graph = room_graphs.begin(version, 3)
    said = graph.say(graph.events[-1].sender, "m.room.message", {"body": "hello"}, [graph.events[-1]])
    here = await stage.say("here")
    results = await stage.peer.send("a.test", "1", said.pdu, here.pdu)
    assert results[said.event_id] == {"error": "This server does not know the room."}
    assert results[here.event_id] == {}


@pytest.mark.behaviours("SS-TXN-02")
@pytest.mark.trust("C18")
@pytest.mark.by_turns
@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_events_of_full_size_of_a_room_that_is_not_known_are_told_so(stage: Stage, version: str) -> None:
    graph = room_graphs.begin(version, 3)
    join = next(event for event in graph.events if event.type == "m.room.member")
    rules = next(event for event in graph.events if event.type == "m.room.join_rules")
    bob, tip = join.sender, graph.events[-1]
    said = [graph.build(bob, "m.room.message", {"body": f"{n}" * 30_000}, [tip]) for n in range(40)]
    sent = [*said, join, rules, tip]
    results = await stage.peer.send("a.test", "1", *(event.pdu for event in sent))
    assert all(results[event.event_id] == {"error": "This server does not know the room."} for event in sent)


@pytest.mark.trust("F35", "F34")
@pytest.mark.parametrize("off_ms", [-DAY, DAY])
async def test_server_whose_clock_is_wrong_is_heard(stage: Stage, off_ms: int) -> None:
    graph = await stage.graph()
    graph.clock = stage.network.clock.now() + off_ms
    stage.peer.on("GET", "/_matrix/key/v2/server", lambda seen: keys_for_days(stage))
    stage.network.clock.advance(61)
    said = graph.say(BOB, "m.room.message", {"body": "when?"}, [graph.events[-1]])
    assert await stage.peer.send("a.test", "1", said.pdu) == {said.event_id: {}}
    mine = await stage.scene.alice.send(stage.room, "now")
    assert mine in (await stage.scene.tips())
    assert await stage.scene.bodies() == ["when?", "now"]


def keys_for_days(stage: Stage) -> Any:
    valid_until_ts = stage.network.clock.now() + 3 * DAY
    return json.loads(publish("b.example", room_graphs.key_of("b.example"), {}, valid_until_ts=valid_until_ts))


@pytest.mark.trust("F47", "F26", "R2")
async def test_events_that_come_twice_and_out_of_order_end_in_their_order(stage: Stage) -> None:
    graph = await stage.graph()
    said = [graph.say(BOB, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]) for number in range(6)]
    for txn, indexes in enumerate([(5, 3), (1, 0, 0), (4, 4, 1), (2, 5), (3,)]):
        results = await stage.peer.send("a.test", f"{txn}", *(said[index].pdu for index in indexes))
        assert all(result == {} for result in results.values())
    assert await stage.scene.bodies() == [f"{number}" for number in range(6)]


@pytest.mark.behaviours("SS-TXN-07")
async def test_unknown_and_malformed_edus_are_ignored(stage: Stage) -> None:
    said = await stage.say("hello")
    edus = [
        {"edu_type": "org.example.nothing", "content": {}},
        {"edu_type": 5, "content": {}},
        {"edu_type": "m.typing"},
        {"edu_type": "m.typing", "content": []},
        [],
        None,
        "m.typing",
    ]
    status, answer = await stage.put("1", stage.body(said.pdu, edus=edus))
    assert (status, answer) == (200, {"pdus": {said.event_id: {}}})


@dataclass
class Held(Stage):
    """A room in which an event waits for the keys of `c.example`, which does not answer; dan is of there."""

    other: Peer

    async def wait_for_keys(self) -> tuple[Event, Event]:
        """Deliver an event of dan's and one of bob's that follows it; both are acknowledged."""
        graph = await self.graph()
        dans = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
        bobs = graph.say(BOB, "m.room.message", {"body": "after"}, [dans])
        assert await self.peer.send("a.test", "first", dans.pdu) == {dans.event_id: {}}
        assert await self.peer.send("a.test", "second", bobs.pdu) == {bobs.event_id: {}}
        return dans, bobs

    async def staged(self) -> int:
        def count(tx: ReadTx) -> int:
            return sum(deliveries.count_staged(tx).values())

        return await self.scene.world.container.database.read(count)


@pytest.fixture
async def held(stage: Stage) -> Held:
    other = stage.network.peer("c.example")
    other.awake.clear()
    return Held(stage.network, stage.scene, stage.peer, other)


@pytest.mark.trust("F22", "F24", "F29", "R5")
async def test_what_cannot_be_taken_in_soon_is_staged_and_stops_nobody_else(held: Held) -> None:
    beside = Scene(held.scene.world, held.scene.alice, await held.scene.alice.create_room(preset="public_chat"))
    await beside.join(BOB)
    graph = await held.graph()
    dans = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
    there = (await beside.graph()).build(BOB, "m.room.message", {"body": "there"}, [(await beside.graph()).events[-1]])
    assert await held.peer.send("a.test", "1", dans.pdu, there.pdu) == {dans.event_id: {}, there.event_id: {}}
    assert await beside.bodies() == ["there"]
    assert await held.staged() == 1
    bobs = graph.say(BOB, "m.room.message", {"body": "after"}, [dans])
    assert await held.peer.send("a.test", "2", bobs.pdu) == {bobs.event_id: {}}
    assert await held.staged() == 2
    # Who talks here does not wait for them.
    await held.scene.alice.send(held.room, "meanwhile")
    held.other.awake.set()
    await eventually(held.staged, lambda count: count == 0)
    assert await held.scene.bodies() == ["meanwhile", "after"]
    assert (await held.scene.state("m.room.member", DAN))["membership"] == "join"


@pytest.mark.trust("C18", "R5", "R6")
async def test_server_with_many_deliveries_at_once_has_to_wait(held: Held) -> None:
    graph = await held.graph()
    dans = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
    # None of them is done before the keys are there.
    puts = [asyncio.ensure_future(held.put(f"{number}", held.body(dans.pdu))) for number in range(13)]

    async def answered() -> list[int]:
        return [put.result()[0] for put in puts if put.done()]

    await eventually(answered, lambda found: len(found) >= 9)
    assert await answered() == [429] * 9
    held.other.awake.set()
    assert sorted(status for status, _ in await asyncio.gather(*puts)) == [200] * 4 + [429] * 9


@pytest.mark.trust("F22", "R1", "R7", "C03")
async def test_what_is_staged_is_taken_in_after_a_restart(held: Held) -> None:
    dans, bobs = await held.wait_for_keys()
    assert await held.staged() == 2
    await held.network.stop("a.test")
    held.other.awake.set()
    a = await held.network.server("a.test")
    scene = Scene(a, held.scene.alice, held.room)
    scene.alice.client = a.client
    await eventually(scene.bodies, lambda bodies: bodies == ["after"])
    assert await scene.tips() == {bobs.event_id}
    assert (await scene.state("m.room.member", DAN))["membership"] == "join"
    # The answer is the one that was given.
    assert await held.put("first", held.body()) == (200, {"pdus": {dans.event_id: {}}})


@pytest.mark.postgres
@pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)  # Where two write at a time.
@pytest.mark.trust("R5")
async def test_staging_and_writing_of_events_do_not_wait_for_each_other(held: Held) -> None:
    _, bobs = await held.wait_for_keys()
    database = held.scene.world.container.database
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")

    def write(tx: WriteTx) -> None:
        """Positions first, then the answer to the same delivery, as it is when events are written."""
        tx.connection.execute(text("SET LOCAL lock_timeout = '500ms'"))
        stream_rows.advance(tx)
        begun.set()
        while not tx.connection.execute(waiting).scalar_one():
            pass
        deliveries.begin_answer(tx, Answered(ServerName("b.example"), 2, b"third".ljust(deliveries.NAME), b"{}", 0))

    begun = asyncio.Event()
    writing = asyncio.ensure_future(database.write(write))
    await begun.wait()
    assert await held.peer.send("a.test", "third", bobs.pdu) == {bobs.event_id: {}}
    await writing
    assert await held.staged() == 3


def copied(stage: Stage, to: Path) -> Config:
    """The settings of a server with the database as it is now: as if its process had died."""
    url = stage.scene.world.container.database.url.database
    assert url is not None
    with sqlite3.connect(url) as source, sqlite3.connect(to) as target:
        source.backup(target)
    return settings(server.sqlite_url(to), str(Path(url).parent / "a.test"), server_name="a.test")


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # A copy is made by copying its file.
@pytest.mark.behaviours("SS-TXN-04")
@pytest.mark.trust("C03", "R2")
async def test_delivery_is_known_by_its_name_after_the_process_died_right_after_the_answer(
    stage: Stage, tmp_path: Path
) -> None:
    first = await stage.say("first")
    body = stage.body(first.pdu)
    answer = await stage.put("1", body)
    config = copied(stage, tmp_path / "left.db")
    other = stage.body((await stage.say("second")).pdu)
    async with running(config, clock=stage.network.clock, transport=Link(stage.network, "a.test")) as again:
        stage.network.clients["a.test"] = again.client
        assert await stage.put("1", other) == answer == (200, {"pdus": {first.event_id: {}}})
        assert await stage.put("1", body) == answer
        assert await stage.put("1", other) == answer
        scene = Scene(again, stage.scene.alice, stage.room)
        scene.alice.client = again.client
        assert await scene.bodies() == ["first"]
        await again.fsck()


@pytest.mark.behaviours("SS-TXN-04")
@pytest.mark.trust("C03", "R2")
async def test_last_answer_to_a_delivery_is_the_one_that_is_repeated_after_a_restart(stage: Stage) -> None:
    said = await stage.say("first")
    body = stage.body(said.pdu)
    await stage.put("1", body)
    database = stage.scene.world.container.database
    [begun] = await database.read(deliveries.list_answers, ServerName("b.example"))
    assert begun.body
    # What was unsure after a crash was taken again, and answered otherwise.
    answer = {"pdus": {said.event_id: {"error": "Not this time."}}}
    later = Answered(begun.origin, begun.number + 1, begun.name, json.dumps(answer).encode(), begun.answered_ts)
    await database.write(deliveries.keep_answers, [later])
    await stage.network.stop("a.test")
    await stage.network.server("a.test")
    assert await stage.put("1", body) == (200, answer)


@pytest.mark.trust("C03", "R2")
async def test_answer_that_is_written_late_does_not_replace_a_later_one(stage: Stage) -> None:
    database = stage.scene.world.container.database

    def answered(number: int, what: bytes) -> Answered:
        return Answered(ServerName("d.example"), number, what.ljust(deliveries.NAME), what, 0)

    late, there, instead = answered(1, b"late"), answered(1 + deliveries.KEPT, b"there"), answered(17, b"instead")
    await database.write(deliveries.keep_answers, [there])
    await database.write(deliveries.keep_answers, [late])
    assert await database.read(deliveries.list_answers, there.origin) == [there]
    await database.write(deliveries.keep_answers, [there, instead, late])
    assert await database.read(deliveries.list_answers, there.origin) == [instead]


def aged(pdu: dict[str, Any]) -> dict[str, Any]:
    """An event as it is delivered some time later by a server that keeps no order of keys."""
    return dict(reversed((pdu | {"unsigned": {"age": 60_000}}).items()))


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # A copy is made by copying its file.
@pytest.mark.behaviours("SS-TXN-04")
@pytest.mark.trust("C03", "F22", "R1", "R2")
async def test_delivery_of_which_only_some_was_taken_when_the_process_died_is_taken_when_it_comes_again(
    held: Held, tmp_path: Path
) -> None:
    beside = Scene(held.scene.world, held.scene.alice, await held.scene.alice.create_room(preset="public_chat"))
    await beside.join(BOB)
    there = (await beside.graph()).build(BOB, "m.room.message", {"body": "there"}, [(await beside.graph()).events[-1]])
    graph = await held.graph()
    dans = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
    typing = {"edu_type": "m.typing", "content": {"room_id": beside.room_id, "user_id": BOB, "typing": True}}
    body = held.body(dans.pdu, there.pdu, b'{"room_id": []}', edus=[typing])
    for pdu in body["pdus"]:
        pdu["unsigned"] = {"age": 1}
    delivered = asyncio.ensure_future(held.put("1", body))
    await eventually(beside.bodies, lambda bodies: bodies == ["there"])
    assert not delivered.done()
    config = copied(held, tmp_path / "left.db")
    held.other.awake.set()
    await delivered
    other = held.body((await held.say("other")).pdu)
    again = body | {"pdus": [aged(pdu) for pdu in body["pdus"]], "edus": [dict(reversed(typing.items()))]}
    async with running(config, clock=held.network.clock, transport=Link(held.network, "a.test")) as world:
        held.network.clients["a.test"] = world.client
        scene = Scene(world, held.scene.alice, held.room)
        scene.alice.client = world.client
        # Another delivery under this name is not looked at.
        assert await held.put("1", other) == (200, {"pdus": {there.event_id: {}}})
        assert await scene.bodies() == []
        since = (await scene.alice.sync())["next_batch"]
        assert await held.put("1", again) == (200, {"pdus": {dans.event_id: {}, there.event_id: {}}})
        await eventually(scene.tips, lambda tips: tips == {dans.event_id})
        there_now = (await scene.alice.sync(since))["rooms"]["join"][beside.room_id]
        assert [event["content"] for event in there_now["ephemeral"]["events"]] == [{"user_ids": [BOB]}]
        await world.fsck()


async def test_what_is_written_first_of_a_delivery_is_written_once_even_if_the_first_transaction_fails(
    stage: Stage,
) -> None:
    database = stage.scene.world.container.database
    written: list[WriteTx] = []
    first = FirstWrite(written.append)

    def write(tx: WriteTx, *parts: Callable[[WriteTx], None] | None, fails: bool = False) -> None:
        for part in parts:
            if part is not None:
                part(tx)
        if fails:
            raise Conflict("Not this.")

    refused, one, other, late = (first.hand_over() for _ in range(4))
    with pytest.raises(Conflict):
        await database.write(write, refused, fails=True)
    await database.write(write, one, other)
    await database.write(write, late, first.hand_over())
    assert first.is_written
    assert len(written) == 2


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # A copy is made by copying its file.
@pytest.mark.trust("F22", "R1")
async def test_what_was_staged_by_a_process_that_died_is_taken_in(held: Held, tmp_path: Path) -> None:
    _, bobs = await held.wait_for_keys()
    config = copied(held, tmp_path / "left.db")
    held.other.awake.set()
    async with running(config, clock=held.network.clock, transport=Link(held.network, "a.test")) as again:
        scene = Scene(again, held.scene.alice, held.room)
        await eventually(scene.tips, lambda tips: tips == {bobs.event_id})
        await again.fsck()


@pytest.mark.trust("R5", "F22")
async def test_event_that_cannot_be_processed_takes_none_of_those_staged_with_it_along(held: Held) -> None:
    graph = await held.graph()
    [joined] = [event for event in graph.events if (event.type, event.state_key) == ("m.room.member", CAT)]
    await held.wait_for_keys()
    cats = graph.say(CAT, "m.room.message", {"body": "of cat"}, [graph.events[-1]])
    bobs = graph.say(BOB, "m.room.message", {"body": "beside"}, [joined])
    for number, event in enumerate((cats, bobs)):
        assert await held.peer.send("a.test", f"{number}", event.pdu) == {event.event_id: {}}
    assert await held.staged() == 4
    database = held.scene.world.container.database
    stored = text("UPDATE events SET pdu = :pdu WHERE event_id = :event_id")

    def store(tx: WriteTx, pdu: bytes) -> None:
        tx.connection.execute(stored, {"pdu": pdu, "event_id": joined.event_id})

    # What cat's event rests on was damaged on the disk.
    await database.write(store, b"\xff")
    held.other.awake.set()
    await eventually(held.staged, lambda count: count == 0)
    await database.write(store, joined.pdu)
    assert await held.scene.bodies() == ["after", "beside"]


@pytest.mark.parametrize("stage", [Federation(staged_per_server=2)], indirect=True)
@pytest.mark.trust("R6", "C18")
async def test_server_of_which_too_much_is_staged_has_to_wait(held: Held) -> None:
    await held.wait_for_keys()
    status, answer = await held.put("3", held.body())
    assert (status, answer["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    # Who repeats what was answered is answered.
    assert (await held.put("second", held.body()))[0] == 200
    held.other.awake.set()
    await eventually(held.staged, lambda count: count == 0)
    assert (await held.put("3", held.body()))[0] == 200


@pytest.mark.behaviours("SS-TXN-07")
@pytest.mark.trust("R5")
async def test_edus_of_known_types_with_wrong_content_do_not_fail_their_neighbours(stage: Stage) -> None:
    since = (await stage.scene.alice.sync())["next_batch"]
    types = (
        "m.typing",
        "m.presence",
        "m.receipt",
        "m.direct_to_device",
        "m.device_list_update",
        "m.signing_key_update",
    )
    contents: list[Any] = [{}, {"room_id": 5}, {"push": {}}, {"a": [1]}, {"user_id": "\u0000", "room_id": "\u0000"}]
    edus = [{"edu_type": kind, "content": content} for kind in types for content in contents]
    typing = {"edu_type": "m.typing", "content": {"room_id": stage.room, "user_id": BOB, "typing": True}}
    status, _ = await stage.put("1", stage.body(edus=[*edus, typing]))
    assert status == 200
    ephemeral = (await stage.scene.alice.sync(since))["rooms"]["join"][stage.room]["ephemeral"]["events"]
    assert [event["content"] for event in ephemeral] == [{"user_ids": [BOB]}]


@pytest.mark.behaviours("SS-ACL-02")
async def test_typing_and_receipts_of_a_server_that_the_room_keeps_out_are_ignored(stage: Stage) -> None:
    said = await stage.scene.alice.send(stage.room, "hello")
    await stage.scene.alice.set_state(stage.room, "m.room.server_acl", {"allow": ["a.test"]})
    since = (await stage.scene.alice.sync())["next_batch"]
    typing = {"edu_type": "m.typing", "content": {"room_id": stage.room, "user_id": BOB, "typing": True}}
    receipt = {stage.room: {"m.read": {BOB: {"event_ids": [said], "data": {"ts": 1}}}}}
    edus = [typing, {"edu_type": "m.receipt", "content": receipt}]
    assert (await stage.put("1", stage.body(edus=edus)))[0] == 200
    assert "rooms" not in await stage.scene.alice.sync(since)


@pytest.mark.trust("C18", "R5", "S8")
@pytest.mark.by_turns
async def test_who_asks_little_does_not_wait_behind_all_that_another_server_asks(stage: Stage) -> None:
    others = stage.network.peer("d.example")
    said = await stage.say("hello")
    target = "/_matrix/federation/v1/query/directory?room_alias=%23nothing%3Aa.test"
    assert (await others.call("a.test", "GET", target)).status_code == 404  # Its keys are known.
    too_many = json.dumps(stage.body(*[said.pdu] * 51)).encode()
    ended: list[str] = []

    async def flood(number: int) -> None:
        assert (await stage.put(f"{number}", too_many))[0] == 413
        ended.append("flood")

    async def ask() -> None:
        assert (await others.call("a.test", "GET", target)).status_code == 404
        ended.append("ask")

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(flood(number))
        group.create_task(ask())
    assert ended.index("ask") < 30


@pytest.mark.trust("C18", "R5")
async def test_deliveries_of_one_server_do_not_wait_for_those_of_another(held: Held) -> None:
    others = held.network.peer("d.example")
    beside = Scene(held.scene.world, held.scene.alice, await held.scene.alice.create_room(preset="public_chat"))
    graph = await beside.graph()
    eve = "@eve:d.example"
    join = graph.say(eve, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=eve)
    await others.send("a.test", "join", join.pdu)
    room = await held.graph()
    events_of_dan = [
        room.build(
            DAN, "m.room.member", {"membership": "join", "displayname": f"{n}"}, [room.events[-1]], state_key=DAN
        )
        for n in range(4)
    ]
    flood = [asyncio.ensure_future(held.put(event.event_id[1:], held.body(event.pdu))) for event in events_of_dan]
    said = graph.say(eve, "m.room.message", {"body": "hello"}, [join])
    assert await others.send("a.test", "1", said.pdu) == {said.event_id: {}}
    assert not any(one.done() for one in flood)
    held.other.awake.set()
    assert {status for status, _ in await asyncio.gather(*flood)} == {200}


@pytest.mark.trust("C18", "F24", "R5")
async def test_nobody_in_a_room_waits_for_keys_of_those_whom_another_server_speaks_of(held: Held) -> None:
    graph = await held.graph()
    dans = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
    assert await held.peer.send("a.test", "1", dans.pdu) == {dans.event_id: {}}
    assert await held.staged() == 1
    others = held.network.peer("d.example")
    eve = "@eve:d.example"
    async with asyncio.timeout(5):  # It would be waited for longer.
        join = await bring_in(others, "a.test", held.room, eve)
        said = (await held.graph()).say(eve, "m.room.message", {"body": "hello"}, [join])
        assert await others.send("a.test", "1", said.pdu) == {said.event_id: {}}
    assert await held.scene.bodies() == ["hello"]
    assert await held.staged() == 1
    held.other.awake.set()
    await eventually(held.staged, lambda count: count == 0)
    assert (await held.scene.state("m.room.member", DAN))["membership"] == "join"


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # What is tested is not the database.
@pytest.mark.trust("C18", "F24", "R5", "K9")
async def test_no_room_waits_for_keys_that_many_others_lack(held: Held) -> None:
    alice, database = held.scene.alice, held.scene.world.container.database
    staged = []
    for _ in range(51):
        graph = await Scene(held.scene.world, alice, await alice.create_room(preset="public_chat")).graph()
        staged.append(graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN))
    last = Scene(held.scene.world, alice, await alice.create_room(preset="public_chat"))
    await last.join(BOB)
    graph = await last.graph()
    staged.append(graph.say(BOB, "m.room.message", {"body": "hello"}, [graph.events[-1]]))

    def stage(tx: WriteTx) -> None:
        found = rooms.find_many_by_id(tx, [RoomId(event.room_id) for event in staged])
        rows = [(found[RoomId(event.room_id)].room_nid, event.pdu) for event in staged]
        deliveries.stage(tx, rows, ServerName("b.example"), now=0)

    await database.write(stage)  # As if the server had died over them.
    await held.network.stop("a.test")
    world = await held.network.server("a.test")
    scene = Scene(world, alice, last.room_id)
    alice.client = world.client
    async with asyncio.timeout(5):  # It would be waited for longer.
        await eventually(scene.bodies, lambda bodies: bodies == ["hello"])
    held.other.awake.set()
    again = Held(held.network, scene, held.peer, held.other)
    await eventually(again.staged, lambda count: count == 0)
