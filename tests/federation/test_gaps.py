"""What is missing between the events that come is asked for, within bounds, and never stops anybody else."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from sqlalchemy import Engine, event, text

from homeserver.config.model import Federation
from homeserver.errors import AnswerTooLarge
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import RoomId
from homeserver.outbound.transport import Call, Reply
from homeserver.storage import event_graph, rooms
from homeserver.storage.engine import ReadTx, WriteTx
from tests.federation.network import Network, Peer, Seen
from tests.federation.test_send import Stage
from tests.room_graphs import Graph, key_of
from tests.services.rooms.test_branches import BOB, Scene
from tests.world import eventually, until

pytestmark = pytest.mark.anyio

V1 = "/_matrix/federation/v1"
DAN = "@dan:c.example"


class Source:
    """A peer that answers of a room what its graph says, as far as it is told to."""

    def __init__(self, peer: Peer, graph: Graph) -> None:
        self.peer = peer
        self.graph = graph
        peer.on("POST", f"{V1}/get_missing_events", self.missing)
        peer.on("GET", f"{V1}/state_ids", self.state_ids)
        peer.on("GET", f"{V1}/state/", self.state)
        peer.on("GET", f"{V1}/event/", self.event)
        peer.on("GET", f"{V1}/event_auth/", self.event_auth)

    def asked(self, what: str) -> int:
        """How often it was asked for this."""
        return sum(f"/{what}" in seen.target for seen in self.peer.seen)

    def missing(self, seen: Seen) -> Any:
        asked = seen.content
        found: list[Event] = []
        ways = [self.graph.by_id[one] for one in asked["latest_events"]]
        while ways and len(found) < asked["limit"]:
            event = ways.pop(0)
            for event_id in event.prev_events:
                before = self.graph.by_id[event_id]
                if event_id not in asked["earliest_events"] and before not in found:
                    found.append(before)
                    ways.append(before)
        return {"events": _json(found[: asked["limit"]])}

    def state_ids(self, seen: Seen) -> Any:
        state, chain = self._before(_query(seen)["event_id"])
        return {
            "pdu_ids": [event.event_id for event in state],
            "auth_chain_ids": [event.event_id for event in chain],
        }

    def state(self, seen: Seen) -> Any:
        state, chain = self._before(_query(seen)["event_id"])
        return {"pdus": _json(state), "auth_chain": _json(chain)}

    def event(self, seen: Seen) -> Any:
        event = self.graph.by_id[_last(seen)]
        return {"origin": self.peer.name, "origin_server_ts": 0, "pdus": _json([event])}

    def event_auth(self, seen: Seen) -> Any:
        return {"auth_chain": _json(self._chain([self.graph.by_id[_last(seen)]]))}

    def _before(self, event_id: str) -> tuple[list[Event], list[Event]]:
        event = self.graph.by_id[event_id]
        state = list(self.graph.before([self.graph.by_id[one] for one in event.prev_events]).values())
        return state, self._chain(state)

    def _chain(self, of: Sequence[Event]) -> list[Event]:
        found: dict[str, Event] = {}
        ways = list(of)
        while ways:
            for event_id in ways.pop().auth_events:
                if event_id not in found:
                    found[event_id] = self.graph.by_id[event_id]
                    ways.append(found[event_id])
        return list(found.values())


def _json(events: Sequence[Event]) -> list[Any]:
    return [json.loads(event.pdu) for event in events]


def _query(seen: Seen) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(seen.target).query).items()}


def _last(seen: Seen) -> str:
    return unquote(urlsplit(seen.target).path.rpartition("/")[2])


@pytest.fixture
async def stage(network: Network, request: pytest.FixtureRequest) -> Stage:
    a = await network.server("a.test", federation=getattr(request, "param", Federation()))
    alice = await a.user("alice")
    peer = network.peer("b.example")
    scene = Scene(a, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    return Stage(network, scene, peer)


def talk(graph: Graph, count: int) -> list[Event]:
    said = []
    for number in range(count):
        said.append(graph.say(BOB, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]))
    return said


async def waiting(stage: Stage) -> int:
    def count(tx: ReadTx) -> int:
        room = rooms.find(tx, RoomId(stage.room))
        assert room is not None
        return event_graph.count_waiting(tx, room.room_nid)

    return await stage.scene.world.container.database.read(count)


async def missing_before(stage: Stage) -> list[str]:
    def look(tx: ReadTx) -> list[str]:
        room = rooms.find(tx, RoomId(stage.room))
        assert room is not None
        return [event_id for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid)]

    return await stage.scene.world.container.database.read(look)


@pytest.mark.behaviours("SS-PDU-07", "SS-BF-02")
async def test_what_is_missing_before_an_event_is_asked_for(stage: Stage) -> None:
    graph = await stage.graph()
    said = talk(graph, 150)
    source = Source(stage.peer, graph)
    assert await stage.peer.send("a.test", "1", said[-1].pdu) == {said[-1].event_id: {}}
    await eventually(lambda: waiting(stage), lambda count: count == 0)
    assert await stage.scene.tips() == {said[-1].event_id}
    assert (await stage.scene.bodies())[:3] == ["0", "1", "2"]
    assert source.asked("state") == 0
    assert await missing_before(stage) == []


@pytest.mark.behaviours("SS-PDU-07")
@pytest.mark.trust("F30")
async def test_beyond_a_gap_that_is_too_long_the_state_is_asked_for(stage: Stage) -> None:
    graph = await stage.graph()
    join = graph.say(DAN, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=DAN)
    stage.network.peer("c.example")
    lost = talk(graph, 5)
    said = graph.say(BOB, "m.room.message", {"body": "beyond"}, [lost[-1]])
    after = graph.say(BOB, "m.room.message", {"body": "after"}, [said])
    source = Source(stage.peer, graph)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})
    await stage.peer.send("a.test", "1", said.pdu, after.pdu)
    await eventually(lambda: waiting(stage), lambda count: count == 0)
    assert await stage.scene.bodies() == ["beyond", "after"]
    assert (await stage.scene.state("m.room.member", DAN))["membership"] == "join"
    assert await missing_before(stage) == [lost[-1].event_id]
    assert [_last(seen) for seen in stage.peer.seen if "/event/" in seen.target] == [join.event_id]
    assert source.asked("state/") == 0


@pytest.mark.behaviours("SS-PDU-07")
async def test_a_large_unknown_state_is_asked_for_at_once(stage: Stage) -> None:
    graph = await stage.graph()
    stage.network.peer("c.example")
    for number in range(25):
        user = f"@user{number}:b.example"
        graph.say(user, "m.room.member", {"membership": "join"}, [graph.events[-1]], state_key=user)
    said = graph.say("@user7:b.example", "m.room.message", {"body": "beyond"}, [graph.events[-1]])
    source = Source(stage.peer, graph)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})
    await stage.peer.send("a.test", "1", said.pdu)
    await eventually(lambda: waiting(stage), lambda count: count == 0)
    assert await stage.scene.bodies() == ["beyond"]
    assert source.asked("event/") == 0
    assert len((await stage.scene.alice.get(f"/rooms/{stage.room}/joined_members")).json()["joined"]) == 27


def forged(graph: Graph, body: str, prev: Sequence[Event], auth: Sequence[Event]) -> Event:
    """A message of bob's that follows and cites what it likes."""
    graph.clock += 1000
    event = build_event(
        graph.version,
        server_name="b.example",
        key=key_of("b.example"),
        room_id=graph.room_id,
        type="m.room.message",
        sender=BOB,
        state_key=None,
        content=json.dumps({"body": body}).encode(),
        origin_server_ts=graph.clock,
        depth=100,
        prev_events=list(prev),
        auth_events=list(auth),
    )
    graph.by_id[event.event_id] = event
    return event


def cited(graph: Graph) -> list[Event]:
    """What a message of bob's has to cite."""
    state = graph.before([graph.events[-1]])
    return [state["m.room.power_levels", ""], state["m.room.member", BOB]]


@pytest.mark.behaviours("SS-PDU-07")
async def test_missing_auth_events_are_asked_for(stage: Stage) -> None:
    graph = await stage.graph()
    tip = graph.events[-1]
    levels, _ = cited(graph)
    # On a branch that nobody here has seen bob joins anew. He cites that without following it.
    join = graph.say(BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, [tip], state_key=BOB)
    said = forged(graph, "hello", [tip], [levels, join])
    source = Source(stage.peer, graph)
    assert await stage.peer.send("a.test", "1", said.pdu) == {said.event_id: {}}
    await eventually(stage.scene.bodies, lambda bodies: bodies == ["hello"])
    assert source.asked("event_auth/") == 1
    assert await waiting(stage) == 0


@pytest.mark.behaviours("SS-PDU-07")
@pytest.mark.trust("R5")
async def test_other_servers_are_asked_where_the_one_that_sent_does_not_answer(stage: Stage) -> None:
    others = stage.network.peer("c.example")
    await stage.scene.join(DAN)
    graph = await stage.graph()
    said = talk(graph, 3)
    source = Source(others, graph)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: Reply(500, {}, b"<html>"))
    await stage.peer.send("a.test", "1", said[-1].pdu)
    await eventually(stage.scene.bodies, lambda bodies: bodies == ["0", "1", "2"])
    assert source.asked("get_missing_events") == 1


async def searches(stage: Stage, outcome: str) -> int:
    """How many searches have ended so."""
    await stage.scene.world.container.database.ping()  # Lets the server go on.
    metrics = (await stage.scene.world.client.get("/metrics")).text
    found = re.search(rf'homeserver_federation_gaps_total{{outcome="{outcome}"}} (\d+)', metrics)
    return 0 if found is None else int(found[1])


@pytest.mark.trust("C23", "R5", "R6")
async def test_a_chain_that_never_ends_is_given_up_and_stops_nobody(stage: Stage) -> None:
    graph = await stage.graph()
    beside = Scene(stage.scene.world, stage.scene.alice, await stage.scene.alice.create_room(preset="public_chat"))
    await beside.join(BOB)
    auth = cited(graph)
    chain = [forged(graph, "the first", [graph.build(BOB, "m.room.message", {}, [graph.events[-1]])], auth)]
    while len(chain) < 2000:
        chain.append(forged(graph, "more", [chain[-1]], auth))

    def more(seen: Seen) -> Any:
        latest = seen.content["latest_events"][0]
        at = chain.index(graph.by_id[latest])
        return {"events": _json(chain[at - seen.content["limit"] : at])}

    stage.peer.on("POST", f"{V1}/get_missing_events", more)
    assert await stage.peer.send("a.test", "1", chain[-1].pdu) == {chain[-1].event_id: {}}
    there = await beside.graph()
    said = there.say(BOB, "m.room.message", {"body": "meanwhile"}, [there.events[-1]])
    assert await stage.peer.send("a.test", "2", said.pdu) == {said.event_id: {}}
    assert await beside.bodies() == ["meanwhile"]
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)

    def asked() -> int:
        return sum("get_missing_events" in seen.target for seen in stage.peer.seen)

    assert asked() == 10
    assert await waiting(stage) == 1001
    # The room is left alone for a while, and goes on from what is known.
    before = len(stage.peer.seen)
    await stage.peer.send("a.test", "3", chain[500].pdu)
    here = graph.build(BOB, "m.room.message", {"body": "here"}, [graph.events[-1]])
    assert await stage.peer.send("a.test", "4", here.pdu) == {here.event_id: {}}
    assert await stage.scene.bodies() == ["here"]
    assert len(stage.peer.seen) == before
    # Then the next event is a reason to ask again.
    stage.network.clock.advance(31)
    await stage.peer.send("a.test", "5", chain[501].pdu)
    await eventually(lambda: searches(stage, "left"), lambda count: count >= 2)
    assert asked() > 10


@pytest.mark.trust("C23", "R5", "R6")
async def test_branches_that_grow_by_twenty_with_each_answer_are_given_up(stage: Stage) -> None:
    graph = await stage.graph()
    auth = cited(graph)
    asked: list[int] = []

    def invented(number: int) -> list[Event]:
        """Twenty events that nobody has seen; they follow others."""
        hidden = graph.build(BOB, "m.room.message", {"n": number}, [graph.events[-1]])
        return [forged(graph, f"{number} {one}", [hidden], auth) for one in range(20)]

    wide = forged(graph, "wide", invented(0), auth)

    def more(seen: Seen) -> Any:
        """Each of the events that are asked for, or five of them, behind twenty others."""
        asked.append(len(seen.content["latest_events"]))
        latest = [graph.by_id[event_id] for event_id in seen.content["latest_events"]]
        before = [
            graph.by_id[event_id] for event in latest for event_id in event.prev_events if event_id in graph.by_id
        ]
        fresh = [forged(graph, "more", invented(len(asked) * 100 + number), auth) for number in range(5)]
        return {"events": _json([*before, *fresh][: seen.content["limit"]])}

    stage.peer.on("POST", f"{V1}/get_missing_events", more)
    assert await stage.peer.send("a.test", "1", wide.pdu) == {wide.event_id: {}}
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    assert 0 < len(asked) <= 10
    assert max(asked) <= 20
    assert await waiting(stage) <= 1001
    here = graph.build(BOB, "m.room.message", {"body": "here"}, [graph.events[-1]])
    assert await stage.peer.send("a.test", "2", here.pdu) == {here.event_id: {}}
    assert await stage.scene.bodies() == ["here"]


@pytest.mark.trust("C23", "F30", "R4")
async def test_what_one_server_makes_wait_keeps_nobody_else_waiting(stage: Stage) -> None:
    others = stage.network.peer("c.example")
    await stage.scene.join(DAN)
    graph = await stage.graph()
    auth = cited(graph)
    never = [graph.build(BOB, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]) for number in range(20)]
    lost = [forged(graph, f"follows what nobody has: {number}", never, auth) for number in range(10)]
    for one in (stage.peer, others):
        one.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})
    await stage.peer.send("a.test", "1", *(event.pdu for event in lost))
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    assert any("get_missing_events" in seen.target for seen in others.seen)
    # The room is left alone now, but for what others have to say; it may lack more than can be asked for at once.
    Source(others, graph)
    said = [graph.say(DAN, "m.room.message", {"body": f"{number}"}, [graph.events[-1]]) for number in range(3)]
    await others.send("a.test", "1", said[-1].pdu)
    await eventually(stage.scene.bodies, lambda bodies: bodies == ["0", "1", "2"])
    assert await waiting(stage) == len(lost)


@pytest.mark.trust("C23", "R8")
async def test_what_waits_and_is_rejected_as_it_comes_by_another_way_waits_no_longer(stage: Stage) -> None:
    graph = await stage.graph()
    tip = graph.events[-1]
    levels, _ = cited(graph)
    join = graph.say(BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, [tip], state_key=BOB)
    may_not = build_event(
        graph.version,
        server_name="b.example",
        key=key_of("b.example"),
        room_id=graph.room_id,
        type="m.room.topic",
        sender=BOB,
        state_key="",
        content=b'{"topic": "mine"}',
        origin_server_ts=graph.clock,
        depth=100,
        prev_events=[tip],
        auth_events=[levels, join],
    )
    # Who is asked by what the event is allowed gives the event as well.
    stage.peer.on("GET", f"{V1}/event_auth/", lambda seen: {"auth_chain": _json([join, may_not])})
    await stage.peer.send("a.test", "1", may_not.pdu)
    await eventually(lambda: searches(stage, "filled"), lambda count: count == 1)
    assert await waiting(stage) == 0
    assert len([seen for seen in stage.peer.seen if "event_auth" in seen.target]) == 1


@pytest.mark.trust("C23", "F25", "R8")
@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b'{"events": [[], 5, null, {"room_id": "!x"}]}'),
        Reply(200, {}, b'{"events": {}}'),
        Reply(401, {}, b'{"errcode": "M_UNKNOWN_TOKEN", "error": "no"}'),
        Reply(429, {}, b"{}"),
    ],
)
async def test_answers_that_are_none_end_the_search(stage: Stage, answer: Reply) -> None:
    said = talk(await stage.graph(), 3)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: answer)
    stage.peer.on("GET", f"{V1}/state", lambda seen: answer)
    assert await stage.peer.send("a.test", "1", said[-1].pdu) == {said[-1].event_id: {}}
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    assert await stage.scene.bodies() == []


@pytest.mark.trust("S2", "C23")
async def test_a_state_that_is_a_lie_is_not_believed_beyond_its_event(stage: Stage) -> None:
    """What a server says the state was cannot undo what the room knows: it is resolved with it."""
    cat = "@cat:b.example"
    await stage.scene.join(cat)
    before = await stage.graph()
    await stage.scene.alice.post(f"/rooms/{stage.room}/ban", {"user_id": cat})
    lost = forged(before, "lost", [before.events[-1]], cited(before))
    state = before.before([before.events[-1]])
    said = before.build(cat, "m.room.message", {"body": "still here"}, [before.events[-1]])
    gap = build_event(
        "12",
        server_name="b.example",
        key=key_of("b.example"),
        room_id=stage.room,
        type="m.room.message",
        sender=cat,
        state_key=None,
        content=b'{"body": "still here"}',
        origin_server_ts=before.clock + 5000,
        depth=200,
        prev_events=[lost],
        auth_events=[before.by_id[event_id] for event_id in said.auth_events],
    )
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})
    ids = [event.event_id for event in state.values()]
    chain = sorted({event_id for event in state.values() for event_id in event.auth_events})
    stage.peer.on("GET", f"{V1}/state_ids", lambda seen: {"pdu_ids": ids, "auth_chain_ids": chain})
    assert await stage.peer.send("a.test", "1", gap.pdu) == {gap.event_id: {}}
    await eventually(lambda: waiting(stage), lambda count: count == 0)
    assert await stage.scene.bodies() == []
    assert (await stage.scene.state("m.room.member", cat))["membership"] == "ban"


@pytest.mark.trust("R7", "F31")
async def test_what_waits_is_looked_for_again_after_a_restart(stage: Stage) -> None:
    graph = await stage.graph()
    said = talk(graph, 3)
    assert await stage.peer.send("a.test", "1", said[-1].pdu) == {said[-1].event_id: {}}
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    await stage.network.stop("a.test")
    Source(stage.peer, graph)
    a = await stage.network.server("a.test")
    scene = Scene(a, stage.scene.alice, stage.room)
    scene.alice.client = a.client
    await eventually(scene.bodies, lambda bodies: bodies == ["0", "1", "2"])


@contextmanager
def held_up(event_id: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first look whether this event alone still waits: set when it begins, and what it then waits for."""
    begun, may_go_on = threading.Event(), threading.Event()

    def look(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        is_look = statement.startswith("SELECT waiting_events.event_id \n") and tuple(parameters) == (event_id,)
        if is_look and not begun.is_set():
            begun.set()
            may_go_on.wait(10)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield begun, may_go_on
    finally:
        may_go_on.set()
        event.remove(Engine, "before_cursor_execute", look)


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # Whose statements are made in threads.
@pytest.mark.trust("F30", "R4")
async def test_what_comes_while_a_search_ends_is_looked_for_at_once(stage: Stage) -> None:
    graph = await stage.graph()
    tip = graph.events[-1]
    said = [graph.say(BOB, "m.room.message", {"body": body}, [tip]) for body in ("lost", "lost, too")]
    after = [graph.say(BOB, "m.room.message", {"body": "after"}, [lost]) for lost in said]
    source = Source(stage.peer, graph)
    answer = stage.peer.answers["POST", f"{V1}/get_missing_events"]
    held: list[tuple[threading.Event, threading.Event]] = []
    with ExitStack() as stack:

        def missing(seen: Seen) -> Any:
            if not held:
                held.append(stack.enter_context(held_up(after[0].event_id)))
            return answer(seen)

        stage.peer.on("POST", f"{V1}/get_missing_events", missing)
        await stage.peer.send("a.test", "1", after[0].pdu)
        await eventually(stage.scene.world.container.database.ping, lambda _: bool(held) and held[0][0].is_set())
        assert await stage.peer.send("a.test", "2", after[1].pdu) == {after[1].event_id: {}}
        assert await waiting(stage) == 1
        held[0][1].set()
        # Nobody looks again here: the clock stands still.
        await eventually(lambda: waiting(stage), lambda count: count == 0)
    assert source.asked("get_missing_events") == 2


@pytest.mark.parametrize("stage", [Federation(searches_per_server=1)], indirect=True)
@pytest.mark.trust("F31")
async def test_more_gaps_than_are_filled_at_once_are_filled_one_after_the_other(stage: Stage) -> None:
    scenes = [stage.scene]
    for _ in range(3):
        scene = Scene(stage.scene.world, stage.scene.alice, await stage.scene.alice.create_room(preset="public_chat"))
        await scene.join(BOB)
        scenes.append(scene)
    graphs = [await scene.graph() for scene in scenes]
    said = [talk(graph, 3) for graph in graphs]
    source = Source(stage.peer, graphs[0])
    for graph in graphs:
        source.graph.by_id |= graph.by_id
    await stage.peer.send("a.test", "1", *(events[-1].pdu for events in said))
    for scene in scenes:
        await eventually(scene.bodies, lambda bodies: bodies == ["0", "1", "2"])


@pytest.mark.trust("C23", "R5", "S8")
async def test_who_is_not_in_the_room_has_nobody_asked(stage: Stage) -> None:
    strangers = stage.network.peer("d.example")
    graph = await stage.graph()
    auth = cited(graph)
    lost = graph.build(BOB, "m.room.message", {}, [graph.events[-1]])
    said = [
        build_event(
            "12",
            server_name="d.example",
            key=key_of("d.example"),
            room_id=stage.room,
            type="m.room.message",
            sender="@dora:d.example",
            state_key=None,
            content=json.dumps({"body": f"{number}"}).encode(),
            origin_server_ts=number,
            depth=30,
            prev_events=[lost],
            auth_events=auth,
        )
        for number in range(5)
    ]
    source = Source(stage.peer, graph)
    results = await strangers.send("a.test", "1", *(one.pdu for one in said))
    assert results == {one.event_id: {} for one in said}
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    assert {seen.target for seen in strangers.seen} == {"/_matrix/key/v2/server"}
    assert source.asked("") == source.asked("key/v2/server")
    # Whoever is in the room may still tell of what strangers have said.
    assert await stage.peer.send("a.test", "2", said[0].pdu) == {said[0].event_id: {}}
    await until(lambda: source.asked("get_missing_events") > 0)


@pytest.mark.trust("C23", "R6")
async def test_few_large_answers_that_nobody_here_wanted_are_waited_for_at_a_time(stage: Stage) -> None:
    largest: list[int] = []
    under_way, go_on = set[str](), asyncio.Event()

    async def weather(call: Call, carry: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.operation != "getEventAuth":
            return await carry()
        largest.append(call.largest)
        if call.largest <= 4 << 20:
            raise AnswerTooLarge("It is large.")
        under_way.add(call.target)
        await go_on.wait()
        under_way.discard(call.target)
        return await carry()

    said = []
    for number in range(5):
        scene = Scene(stage.scene.world, stage.scene.alice, await stage.scene.alice.create_room(preset="public_chat"))
        await scene.join(BOB)
        graph = await scene.graph()
        tip = graph.events[-1]
        levels, _ = cited(graph)
        join = graph.say(BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, [tip], state_key=BOB)
        said.append((scene, forged(graph, f"{number}", [tip], [levels, join]), graph))
    sources = [Source(stage.peer, graph) for _, _, graph in said]

    def auth(seen: Seen) -> Any:
        return next(one for one in sources if _last(seen) in one.graph.by_id).event_auth(seen)

    stage.peer.on("GET", f"{V1}/event_auth/", auth)
    stage.network.weather = weather
    await stage.peer.send("a.test", "1", *(event.pdu for _, event, _ in said))
    await until(lambda: len(largest) == 5 + 2)
    assert len(under_way) == 2
    assert sorted(largest) == [4 << 20] * 5 + [64 << 20] * 2
    go_on.set()
    for number, (scene, _, _) in enumerate(said):
        await eventually(scene.bodies, lambda bodies, number=number: bodies == [f"{number}"])  # type: ignore[misc]


@pytest.mark.trust("C23", "R6")
async def test_a_state_is_read_as_far_as_it_is_plausible_for_the_room(stage: Stage) -> None:
    largest: list[int] = []

    async def weather(call: Call, carry: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.operation == "getRoomStateIds":
            largest.append(call.largest)
            raise AnswerTooLarge("It is large.")
        return await carry()

    graph = await stage.graph()
    said = talk(graph, 2)
    Source(stage.peer, graph)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})
    stage.network.weather = weather
    await stage.peer.send("a.test", "1", said[-1].pdu)
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    # Two people, and 10,000 that we do not know of.
    assert set(largest) == {10_002 * 4096 // 16}


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)  # The fault is written in its language.
@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.trust("C23", "R5")
async def test_an_event_that_cannot_be_stored_keeps_no_other_from_it_and_is_left_alone(
    stage: Stage, faulty: int
) -> None:
    graph = await stage.graph()
    lost = [graph.say(BOB, "m.room.message", {"body": f"lost {n}"}, [graph.events[-1]]) for n in range(2)]
    after = [graph.say(BOB, "m.room.message", {"body": f"after {n}"}, [lost[n]]) for n in range(2)]
    source = Source(stage.peer, graph)
    stage.peer.on("POST", f"{V1}/get_missing_events", lambda seen: {"events": []})

    def break_it(tx: WriteTx) -> None:
        fault = f"WHEN NEW.event_id = '{after[faulty].event_id}' BEGIN SELECT RAISE(ABORT, 'It is broken.'); END"
        tx.connection.execute(text(f"CREATE TRIGGER fault BEFORE INSERT ON events {fault}"))

    def mend_it(tx: WriteTx) -> None:
        tx.connection.execute(text("DROP TRIGGER fault"))

    database = stage.scene.world.container.database
    await database.write(break_it)
    await stage.peer.send("a.test", "1", *(event.pdu for event in after))
    await eventually(stage.scene.bodies, lambda bodies: bodies == [f"after {1 - faulty}"])
    await eventually(lambda: searches(stage, "left"), lambda count: count == 1)
    asked = source.asked("state_ids")
    await stage.peer.send("a.test", "2", after[faulty].pdu)
    assert await stage.scene.bodies() == [f"after {1 - faulty}"]
    assert source.asked("state_ids") == asked
    await database.write(mend_it)
    stage.network.clock.advance(31)
    await stage.peer.send("a.test", "3", after[faulty].pdu)
    await eventually(stage.scene.bodies, lambda bodies: len(bodies) == 2)
