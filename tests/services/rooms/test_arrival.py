"""Coming into rooms through another server: what it says of the room is verified, and becomes the room."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.app import signing_key
from homeserver.errors import BadAnswer
from homeserver.kit.randomness import Randomness
from homeserver.matrix import event_auth
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_event
from homeserver.services.rooms.state_requests import MOST_STATE
from homeserver.storage import event_graph, event_log, events, rooms, server_keys
from homeserver.storage.engine import ReadTx
from tests import room_graphs
from tests.room_graphs import CREATOR, Graph, State, key_of
from tests.world import User, World

VERSIONS = ["1", "3", "6", "10", "11", "12"]
LOCAL = "localhost"


def join_event(world: World, graph: Graph, user_id: str, *, membership: str = "join", **content: Any) -> Event:
    """A member event of a user of this server, signed by it, that follows all there is in the room."""
    key = signing_key.ensure(world.container.config, Randomness())
    last = {event_id for event in graph.events for event_id in event.prev_events}
    prev = [event for event in graph.events if event.event_id not in last | graph.rejected][-20:]
    state = graph.before(prev)
    raw = json.dumps({"membership": membership, **content}).encode()
    keys = event_auth.auth_event_keys(
        graph.version, type="m.room.member", sender=user_id, state_key=user_id, content=raw
    )
    graph.clock += 1000
    event = build_event(
        graph.version,
        server_name=LOCAL,
        key=key,
        room_id=graph.room_id,
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content=raw,
        origin_server_ts=graph.clock,
        depth=max(event.depth for event in prev) + 1,
        prev_events=prev,
        auth_events=[state[pair] for pair in keys if pair in state],
        event_id=f"$join{graph.clock}:{LOCAL}" if ROOM_VERSIONS[graph.version].event_ids_in_pdu else None,
    )
    graph.add(event, prev)
    return event


def chain(graph: Graph, found: Iterable[Event]) -> list[Event]:
    """The auth chains of these events."""
    seen: dict[str, Event] = {}
    rest = [event_id for event in found for event_id in event.auth_events]
    while rest:
        event_id = rest.pop()
        if event_id not in seen:
            seen[event_id] = graph.by_id[event_id]
            rest.extend(seen[event_id].auth_events)
    return list(seen.values())


@dataclass
class Answer:
    """What a resident server says."""

    join: Event
    state: list[bytes]
    auth: list[bytes]
    before: State


def answer_of(graph: Graph, join: Event) -> Answer:
    before = graph.before([graph.by_id[event_id] for event_id in join.prev_events])
    auth = chain(graph, [join, *before.values()])
    return Answer(join, [event.pdu for event in before.values()], [event.pdu for event in auth], before)


async def arrive(world: World, graph: Graph, answer: Answer) -> str:
    return await world.container.arrivals.arrive(
        RoomId(graph.room_id),
        graph.version,
        answer.join.pdu,
        answer.state,
        answer.auth,
        partial=None,
        via="a.example",
    )


async def know_keys(world: World) -> None:
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())


async def members_of(user: User, room_id: str) -> dict[str, str]:
    answer = await user.get(f"/rooms/{quote(room_id)}/members")
    assert answer.status_code == 200, answer.text
    return {event["state_key"]: event["content"]["membership"] for event in answer.json()["chunk"]}


async def state_of(user: User, room_id: str) -> dict[tuple[str, str], str]:
    answer = await user.get(f"/rooms/{quote(room_id)}/state")
    assert answer.status_code == 200, answer.text
    return {(event["type"], event["state_key"]): event["event_id"] for event in answer.json()}


def ids(state: State) -> dict[tuple[str, str], str]:
    return {pair: event.event_id for pair, event in state.items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.behaviours("SS-JOIN-08")
async def test_arriving_in_a_new_room_makes_it_an_ordinary_one(world: World, version: str) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin(version)
    graph.say(CREATOR, "m.room.name", {"name": "Far away"}, [graph.events[-1]], state_key="")
    join = join_event(world, graph, alice.user_id, displayname="Alice")
    since = (await alice.sync())["next_batch"]
    assert await arrive(world, graph, answer_of(graph, join)) == join.event_id

    room = (await alice.sync(since))["rooms"]["join"][graph.room_id]
    shown = {(event["type"], event["state_key"]) for event in room["state"]["events"]}
    assert shown == {pair for pair in graph.after[join.event_id] if pair != ("m.room.member", alice.user_id)}
    assert [event["event_id"] for event in room["timeline"]["events"]] == [join.event_id]
    assert room["timeline"]["limited"]
    assert room["summary"]["m.joined_member_count"] == 7
    assert await state_of(alice, graph.room_id) == ids(graph.after[join.event_id])
    # It can be spoken in, and what comes from elsewhere afterwards finds its place.
    said = await alice.send(graph.room_id, "Hello.")
    theirs = graph.say(CREATOR, "m.room.message", {"body": "Welcome."}, [join])
    [receipt] = await world.container.inbox.receive(RoomId(graph.room_id), [theirs.pdu])
    assert receipt.outcome.value == "accepted"
    latest = (await alice.sync())["rooms"]["join"][graph.room_id]["timeline"]["events"]
    assert [event["event_id"] for event in latest] == [join.event_id, said, theirs.event_id]
    missing = await world.container.database.read(_missing, graph.room_id)
    assert missing == set(join.prev_events)


def _missing(tx: ReadTx, room_id: str) -> set[str]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    return {event_id for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid)}


def _statuses(tx: ReadTx, event_ids: list[str]) -> dict[str, int]:
    found = events.find_many_by_id(tx, [EventId(one) for one in event_ids])
    return {event_id: row.status for event_id, row in found.items()}


@pytest.mark.parametrize("version", ["6", "12"])
@pytest.mark.behaviours("SS-JOIN-08")
async def test_coming_back_into_a_room_keeps_the_old_history_and_ends_its_branches(world: World, version: str) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin(version)
    await arrive(world, graph, answer_of(graph, join_event(world, graph, alice.user_id)))
    before = await alice.send(graph.room_id, "I was here.")
    await alice.leave(graph.room_id)
    # Elsewhere the room goes on; what was said here was never heard of but for the leave.
    graph = await _as_elsewhere(world, graph)
    tip = graph.events[-1]
    tip = graph.say(CREATOR, "m.room.topic", {"topic": "Meanwhile"}, [tip], state_key="")
    tip = graph.say("@eve:c.example", "m.room.member", {"membership": "leave"}, [tip], state_key="@eve:c.example")
    join = join_event(world, graph, alice.user_id)
    assert await arrive(world, graph, answer_of(graph, join)) == join.event_id

    assert await state_of(alice, graph.room_id) == ids(graph.after[join.event_id])
    assert (await members_of(alice, graph.room_id))["@eve:c.example"] == "leave"
    room = (await alice.sync())["rooms"]["join"][graph.room_id]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [join.event_id]
    assert room["timeline"]["limited"]
    old = await alice.get(f"/rooms/{quote(graph.room_id)}/event/{quote(before)}")
    assert old.status_code == 200, old.text
    said = await alice.send(graph.room_id, "Back again.")
    stored = await world.container.database.read(events.find_many_by_id, [EventId(said)])
    assert Event.parse(stored[EventId(said)].pdu, version).prev_events == [join.event_id]


async def _as_elsewhere(world: World, graph: Graph) -> Graph:
    """The graph, with all that happened here."""
    rows = await world.container.database.read(_rows, graph.room_id)
    for row in rows:
        if row.event_id not in graph.by_id:
            event = Event.parse(row.pdu, graph.version, row.event_id)
            graph.add(event, [graph.by_id[event_id] for event_id in event.prev_events])
            graph.clock = max(graph.clock, event.origin_server_ts)
    return graph


def _rows(tx: ReadTx, room_id: str) -> list[events.StoredEvent]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    return event_log.list_all(tx, room.room_nid)


def altered(pdu: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(pdu), **fields}).encode()


def signed_by(server: str, event: Event) -> bytes:
    return sign_event(event, server, key_of(server)).pdu


def _without_create(graph: Graph, answer: Answer) -> None:
    answer.state = [pdu for pdu in answer.state if json.loads(pdu)["type"] != "m.room.create"]


def _other_create(graph: Graph, answer: Answer) -> None:
    other = room_graphs.begin(graph.version, seed=7)
    _without_create(graph, answer)
    answer.state.append(other.create.pdu)


def _other_room(graph: Graph, answer: Answer) -> None:
    other = room_graphs.begin(graph.version, seed=7)
    answer.state = [event.pdu for event in other.after[other.events[-1].event_id].values()]
    answer.auth = [event.pdu for event in other.events]


def _other_version(graph: Graph, answer: Answer) -> None:
    other = room_graphs.begin("9" if graph.version != "9" else "8")
    _without_create(graph, answer)
    answer.state.append(other.create.pdu)


def _no_rules(graph: Graph, answer: Answer) -> None:
    """What allows the join is left out altogether."""
    answer.state = [pdu for pdu in answer.state if json.loads(pdu)["type"] != "m.room.join_rules"]
    answer.auth = [pdu for pdu in answer.auth if json.loads(pdu)["type"] != "m.room.join_rules"]


def _wrong_signature(graph: Graph, answer: Answer) -> None:
    """What allows the join is not signed by whoever sent it."""

    def break_it(pdu: bytes) -> bytes:
        event = json.loads(pdu)
        if event["type"] != "m.room.join_rules":
            return pdu
        [server] = event["signatures"]
        [key_id] = event["signatures"][server]
        return altered(pdu, signatures={server: {key_id: "A" * 86}})

    answer.state = [break_it(pdu) for pdu in answer.state]
    answer.auth = [break_it(pdu) for pdu in answer.auth]


def _two_in_one_place(graph: Graph, answer: Answer) -> None:
    first, second = [event for event in graph.events if event.type == "m.room.name"]
    answer.state.append((second if answer.before["m.room.name", ""] is first else first).pdu)


def _message_as_state(graph: Graph, answer: Answer) -> None:
    answer.state.append(next(event.pdu for event in graph.events if event.type == "m.room.message"))


def _banned(graph: Graph, answer: Answer) -> None:
    """The join is not allowed by the state that is given with it."""
    tip = graph.by_id[answer.join.prev_events[0]]
    ban = graph.build(CREATOR, "m.room.member", {"membership": "ban"}, [tip], state_key=answer.join.sender)
    graph.add(ban, [tip])
    answer.state.append(ban.pdu)


def _nothing(graph: Graph, answer: Answer) -> None:
    answer.state, answer.auth = [], []


def _garbage(graph: Graph, answer: Answer) -> None:
    answer.state = [b"{}", b"[]", b"nonsense", b'{"type": 7}', *answer.state[1:]]


Spoil = Callable[[Graph, Answer], None]


@pytest.mark.parametrize("version", ["6", "12"])
@pytest.mark.parametrize(
    "spoil",
    [
        _without_create,
        _other_create,
        _other_room,
        _other_version,
        _no_rules,
        _wrong_signature,
        _two_in_one_place,
        _message_as_state,
        _banned,
        _nothing,
        _garbage,
    ],
)
@pytest.mark.behaviours("SS-JOIN-08")
@pytest.mark.trust("C22", "C30")
@pytest.mark.by_turns
async def test_an_answer_that_does_not_hold_is_not_used_and_is_no_obstacle(
    world: World, version: str, spoil: Spoil
) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin(version)
    tip = graph.say(CREATOR, "m.room.name", {"name": "One"}, [graph.events[-1]], state_key="")
    tip = graph.say(CREATOR, "m.room.name", {"name": "Two"}, [tip], state_key="")
    graph.say(CREATOR, "m.room.message", {"body": "Hm."}, [tip])
    join = join_event(world, graph, alice.user_id)
    good, bad = answer_of(graph, join), answer_of(graph, join)
    spoil(graph, bad)
    with pytest.raises(BadAnswer):
        await arrive(world, graph, bad)
    assert "rooms" not in await alice.sync()
    assert (await alice.get("/joined_rooms")).json() == {"joined_rooms": []}
    await world.fsck()
    assert await arrive(world, graph, good) == join.event_id
    assert await state_of(alice, graph.room_id) == ids(graph.after[join.event_id])


@pytest.mark.behaviours("SS-JOIN-08")
async def test_what_is_wrong_in_an_answer_that_holds_without_it_is_left_out(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("10")
    tip = graph.events[-1]
    tip = graph.say("@bob:b.example", "org.example.note", {"it": "is mine"}, [tip], state_key="@bob:b.example")
    tip = graph.say("@ann:a.example", "org.example.note", {"n": 1}, [tip], state_key="@ann:a.example")
    not_allowed = graph.build("@eve:c.example", "m.room.topic", {"topic": "Eve's"}, [tip], state_key="")
    join = join_event(world, graph, alice.user_id)
    answer = answer_of(graph, join)
    bobs = answer.before["org.example.note", "@bob:b.example"]
    anns = answer.before["org.example.note", "@ann:a.example"]
    answer.state.remove(bobs.pdu)
    answer.state.append(altered(bobs.pdu, signatures={"b.example": {key_of("b.example").key_id: "B" * 86}}))
    # A content that was changed on the way is not shown; what is left of the event still counts.
    answer.state.remove(anns.pdu)
    answer.state.append(altered(anns.pdu, content={"n": 2}))
    answer.state.append(not_allowed.pdu)
    await arrive(world, graph, answer)
    state = await state_of(alice, graph.room_id)
    expected = ids(graph.after[join.event_id])
    del expected["org.example.note", "@bob:b.example"]
    assert state == expected
    found = await alice.get(f"/rooms/{quote(graph.room_id)}/state/org.example.note/@ann:a.example")
    assert found.json() == {}
    statuses = await world.container.database.read(_statuses, [not_allowed.event_id, bobs.event_id])
    assert statuses == {not_allowed.event_id: events.REJECTED}


async def test_an_attempt_that_ended_half_way_is_no_obstacle(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("12")
    join = join_event(world, graph, alice.user_id)
    answer = answer_of(graph, join)
    half = Answer(join, answer.state[:2], answer.auth[:2], answer.before)
    with pytest.raises(BadAnswer):
        await arrive(world, graph, half)
    assert await world.container.database.read(rooms.find_nid, RoomId(graph.room_id)) is not None
    await world.fsck()
    refused = await alice.put(f"/rooms/{quote(graph.room_id)}/send/m.room.message/t1", {"body": "Too early."})
    assert refused.status_code == 403
    await arrive(world, graph, answer)
    assert await state_of(alice, graph.room_id) == ids(graph.after[join.event_id])


@pytest.mark.trust("C22", "F41")
async def test_an_answer_of_absurd_size_is_not_looked_at(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("12")
    answer = answer_of(graph, join_event(world, graph, alice.user_id))
    answer.state = [b"{}"] * (MOST_STATE + 1)
    with pytest.raises(BadAnswer):
        await arrive(world, graph, answer)
    assert await world.container.database.read(rooms.find_nid, RoomId(graph.room_id)) is None


async def test_somebody_who_does_not_wait_for_the_answer_can_come_again(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("10")
    join = join_event(world, graph, alice.user_id)
    answer = answer_of(graph, join)
    for steps in range(0, 40, 3):
        coming = asyncio.ensure_future(arrive(world, graph, answer))
        for _ in range(steps):
            await asyncio.sleep(0)
        coming.cancel()
        await asyncio.wait({coming})
        await world.fsck()
    assert await arrive(world, graph, answer) == join.event_id
    assert await state_of(alice, graph.room_id) == ids(graph.after[join.event_id])


async def test_arriving_twice_by_one_event_is_arriving_once(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("11")
    join = join_event(world, graph, alice.user_id)
    answer = answer_of(graph, join)
    await arrive(world, graph, answer)
    said = await alice.send(graph.room_id, "Hello.")
    assert await arrive(world, graph, answer) == join.event_id
    timeline = (await alice.sync())["rooms"]["join"][graph.room_id]["timeline"]["events"]
    assert [event["event_id"] for event in timeline] == [join.event_id, said]


async def test_whoever_comes_second_finds_the_room_as_the_first_has_it(world: World) -> None:
    await know_keys(world)
    alice, bea = await world.user("alice"), await world.user("bea")
    graph = room_graphs.begin("10")
    before = [graph.events[-1]]
    first = join_event(world, graph, alice.user_id)
    await arrive(world, graph, answer_of(graph, first))
    said = await alice.send(graph.room_id, "Where are you?")
    second = join_event(world, graph, bea.user_id)
    assert second.prev_events != [before[0].event_id]
    await arrive(world, graph, answer_of(graph, second))
    members = await members_of(alice, graph.room_id)
    assert (members[alice.user_id], members[bea.user_id]) == ("join", "join")
    timeline = (await alice.sync())["rooms"]["join"][graph.room_id]["timeline"]["events"]
    assert [event["event_id"] for event in timeline] == [first.event_id, said, second.event_id]


@pytest.mark.timeout(120)  # Twelve hundred events are signed first.
async def test_a_room_of_some_thousand_members_is_taken_in_groups(world: World) -> None:
    await know_keys(world)
    alice = await world.user("alice")
    graph = room_graphs.begin("10")
    tip = graph.events[-1]
    rules = {pair: event for pair, event in graph.after[tip.event_id].items() if pair[0] != "m.room.member"}
    cited = [rules["m.room.create", ""], rules["m.room.power_levels", ""], rules["m.room.join_rules", ""]]
    many = []
    for number in range(1200):
        user_id = f"@u{number}:b.example"
        tip = build_event(
            "10",
            server_name="b.example",
            key=key_of("b.example"),
            room_id=graph.room_id,
            type="m.room.member",
            sender=user_id,
            state_key=user_id,
            content=b'{"membership": "join"}',
            origin_server_ts=graph.clock,
            depth=tip.depth + 1,
            prev_events=[tip],
            auth_events=cited,
        )
        many.append(tip)
    join = join_event(world, graph, alice.user_id)
    answer = answer_of(graph, join)
    answer.state += [event.pdu for event in many]
    await arrive(world, graph, answer)
    assert len(await members_of(alice, graph.room_id)) == 7 + 1200
    room = (await alice.sync())["rooms"]["join"][graph.room_id]
    assert room["summary"]["m.joined_member_count"] == 7 + 1200
    await alice.send(graph.room_id, "So many.")
