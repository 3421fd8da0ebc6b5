"""Rooms that were joined with a part of their state: they can be used at once, and become whole."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import RoomId, ServerName, UserId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.landing import PARTIAL
from homeserver.services.rooms.partial import COMPLETED, list_joins
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import coming_members, events, partial_rooms, server_keys
from homeserver.storage.members import Member
from homeserver.storage.partial_rooms import PartialRoom
from tests import room_graphs
from tests.federation.network import Network, Peer, Seen
from tests.room_graphs import CREATOR, Graph, key_of
from tests.services.rooms.test_arrival import altered, chain, ids, join_event, members_of, state_of
from tests.services.rooms.test_inbox import Stored
from tests.world import User, World, eventually

RESIDENT = "a.example"


@dataclass
class Scene:
    """A room on servers elsewhere, which a user of ours has just joined."""

    network: Network
    world: World
    peer: Peer
    graph: Graph
    alice: User
    join: Event
    asked: list[str] = field(default_factory=list)

    @property
    def room(self) -> str:
        return self.graph.room_id

    async def receive(self, *events: Event) -> list[str]:
        """What becomes of events, whose auth events are fetched as others would."""
        inbox = self.world.container.inbox
        await inbox.receive_outliers(RoomId(self.room), [event.pdu for event in chain(self.graph, events)])
        receipts = await inbox.receive(RoomId(self.room), [event.pdu for event in events])
        return [receipt.outcome.value for receipt in receipts]

    async def is_partial(self) -> bool:
        return bool(await self.world.container.database.read(partial_rooms.list_all))

    @property
    def before(self) -> list[Event]:
        """The state before the join."""
        return list(self.graph.before([self.graph.by_id[one] for one in self.join.prev_events]).values())

    async def become_whole(self) -> None:
        """Let the other servers answer, and wait for what comes of it."""
        self.answer(self.before)
        await self.try_until_whole()

    async def try_until_whole(self) -> None:
        """Let time pass in which what did not succeed is tried again."""
        await eventually(self.look_later, lambda found: not found)

    async def failed(self, times: int) -> PartialRoom:
        """Wait until it was tried so often in vain."""
        found = await self.look_later()
        while found[0].failures < times or found[0].failure is None:
            found = await self.look_later()
        return found[0]

    async def look_later(self) -> list[PartialRoom]:
        notifier = self.world.container.notifier
        with notifier.waiting_for([COMPLETED]) as waiter:
            self.network.clock.advance(3600)
            # As if another room had just been joined: nobody waits for seconds here.
            notifier.changed(notifier.latest, {PARTIAL})
            await waiter.wait(0.05)
        return await self.world.container.database.read(partial_rooms.list_all)

    def answer(
        self, before: Sequence[Event], change: Callable[[bytes], bytes] = lambda pdu: pdu, *, peer: Peer | None = None
    ) -> None:
        """From now on, say that this is the state before the join."""
        peer = peer or self.peer
        auth = chain(self.graph, [self.join, *before])

        def state(seen: Seen) -> Any:
            self.asked.append("state")
            return {
                "pdus": [json.loads(change(event.pdu)) for event in before],
                "auth_chain": [json.loads(event.pdu) for event in auth],
            }

        def state_ids(seen: Seen) -> Any:
            self.asked.append("state_ids")
            return {
                "pdu_ids": [event.event_id for event in before],
                "auth_chain_ids": [event.event_id for event in auth],
            }

        peer.on("GET", f"/_matrix/federation/v1/state/{quote(self.room)}", state)
        peer.on("GET", f"/_matrix/federation/v1/state_ids/{quote(self.room)}", state_ids)


async def arrive(network: Network, version: str = "10", *, graph: Graph | None = None) -> Scene:
    """Join a room with the members left out; nobody answers when asked for the rest."""
    world = await network.server("localhost")
    peer = network.peer(RESIDENT)
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
    alice = await world.user("alice")
    graph = graph or room_graphs.begin(version)
    join = join_event(world, graph, alice.user_id)
    before = graph.before([graph.by_id[one] for one in join.prev_events])
    shown = [event for pair, event in before.items() if pair[0] != "m.room.member"]
    await world.container.arrivals.arrive(
        RoomId(graph.room_id),
        graph.version,
        join.pdu,
        [event.pdu for event in shown],
        [event.pdu for event in chain(graph, [join, *shown]) if event not in shown],
        partial=[ServerName(name) for name in room_graphs.SERVERS],
        via=RESIDENT,
    )
    scene = Scene(network, world, peer, graph, alice, join)
    assert await scene.is_partial()
    return scene


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@pytest.mark.behaviours("SS-JOIN-05")
async def test_room_known_in_part_is_readable_and_sendable_and_becomes_whole(network: Network, version: str) -> None:
    scene = await arrive(network, version)
    graph, alice, join = scene.graph, scene.alice, scene.join
    first = await alice.sync()
    room = first["rooms"]["join"][scene.room]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [join.event_id]
    said = await alice.send(scene.room, "Hello.")
    # Somebody of whom nothing is known speaks: the events that theirs cites tell who they are.
    theirs = graph.say("@eve:c.example", "m.room.message", {"body": "Hi."}, [join])
    assert await scene.receive(theirs) == ["accepted"]
    again = graph.say("@eve:c.example", "m.room.message", {"body": "Who are you?"}, [theirs])
    assert await scene.receive(again) == ["accepted"]
    second = await alice.sync(first["next_batch"], filter={"room": {"state": {"lazy_load_members": True}}})
    room = second["rooms"]["join"][scene.room]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [said, theirs.event_id, again.event_id]
    assert "@eve:c.example" in {event["state_key"] for event in room["state"]["events"]}

    await scene.become_whole()
    lazy = await alice.sync(second["next_batch"], filter={"room": {"state": {"lazy_load_members": True}}})
    room = lazy["rooms"]["join"][scene.room]
    assert {event["state_key"] for event in room["state"]["events"]} == set(room["summary"]["m.heroes"])
    assert room["summary"]["m.joined_member_count"] == 7
    third = await alice.sync(second["next_batch"])
    told = {event["state_key"] for event in third["rooms"]["join"][scene.room]["state"]["events"]}
    # Eve was known to the server before this client was told of the rest.
    assert told == set(room_graphs.USERS) - {"@eve:c.example"} - ({CREATOR} & _known(first, scene.room))
    assert third["rooms"]["join"][scene.room]["summary"]["m.joined_member_count"] == 7
    assert third["rooms"]["join"][scene.room]["timeline"]["events"] == []
    assert scene.room not in (await alice.sync(third["next_batch"])).get("rooms", {}).get("join", {})
    assert set(await members_of(alice, scene.room)) == {*room_graphs.USERS, alice.user_id}
    assert await state_of(alice, scene.room) == ids(graph.after[join.event_id])
    await alice.send(scene.room, "Now I know you all.")


def _known(answer: dict[str, Any], room: str) -> set[str]:
    events = answer["rooms"]["join"][room]["state"]["events"]
    return {event["state_key"] for event in events if event["type"] == "m.room.member"}


async def messages_of(user: User, room: str) -> list[str]:
    """The ids of what was said in the room, the last first."""
    answer = await user.get(f"/rooms/{quote(room)}/messages", dir="b", limit="50")
    assert answer.status_code == 200, answer.text
    return [event["event_id"] for event in answer.json()["chunk"]]


def citing(graph: Graph, sender: str, content: dict[str, Any], prev: Event, cited: Sequence[Event]) -> Event:
    """A message that cites what its sender wants it to cite."""
    server = sender.partition(":")[2]
    graph.clock += 1000
    return build_event(
        graph.version,
        server_name=server,
        key=key_of(server),
        room_id=graph.room_id,
        type="m.room.message",
        sender=sender,
        state_key=None,
        content=json.dumps(content).encode(),
        origin_server_ts=graph.clock,
        depth=prev.depth + 1,
        prev_events=[prev],
        auth_events=list(cited),
        event_id=f"$cites{graph.clock}:{server}" if ROOM_VERSIONS[graph.version].event_ids_in_pdu else None,
    )


@pytest.mark.parametrize("version", ["6", "12"])
async def test_what_was_allowed_for_lack_of_knowledge_is_judged_again(network: Network, version: str) -> None:
    graph = room_graphs.begin(version)
    eve_joined = graph.events[-1]
    assert eve_joined.sender == "@eve:c.example"
    graph.say(CREATOR, "m.room.member", {"membership": "ban"}, [eve_joined], state_key="@eve:c.example")
    scene = await arrive(network, version, graph=graph)
    # Who was put out says that they are in, and nobody here can know better.
    state = graph.after[eve_joined.event_id]
    cited = [
        state[pair]
        for pair in (("m.room.create", ""), ("m.room.power_levels", ""))
        if version == "6" or pair[0] != "m.room.create"
    ]
    lie = citing(graph, "@eve:c.example", {"msgtype": "m.text", "body": "Buy!"}, scene.join, [*cited, eve_joined])
    assert await scene.receive(lie) == ["accepted"]
    graph.by_id[lie.event_id] = lie
    graph.after[lie.event_id] = graph.after[scene.join.event_id]
    said = await scene.alice.send(scene.room, {"msgtype": "m.text", "body": "Why is Eve here?"})
    assert lie.event_id in await messages_of(scene.alice, scene.room)

    await scene.become_whole()
    assert await messages_of(scene.alice, scene.room) == [said, scene.join.event_id]
    assert (await members_of(scene.alice, scene.room))["@eve:c.example"] == "ban"
    another = citing(graph, "@eve:c.example", {"msgtype": "m.text", "body": "Buy!!"}, scene.join, [*cited, eve_joined])
    assert await scene.receive(another) == ["rejected"]


@pytest.mark.timeout(120)  # Whole rooms, event by event.
@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@pytest.mark.trust("R4")
async def test_branches_from_before_the_room_was_whole_end_as_if_it_always_had_been(
    network: Network, version: str
) -> None:
    graph = room_graphs.begin(version)
    tip = graph.say(CREATOR, "m.room.member", {"membership": "ban"}, [graph.events[-1]], state_key="@dan:c.example")
    graph.say(CREATOR, "m.room.topic", {"topic": "Before"}, [tip], state_key="")
    scene = await arrive(network, version, graph=graph)
    chance = random.Random(version)
    ends = [scene.join]
    for step in range(25):
        prev = chance.sample(ends, min(len(ends), chance.choice((1, 1, 2))))
        sender, type_, content, state_key = room_graphs.action(chance, step, quarrels=True)
        event = graph.build(sender, type_, content, prev, state_key)
        if graph.refusal(event, prev) is not None:
            continue
        graph.add(event, prev)
        await scene.receive(event)
        if chance.random() < 0.7:
            ends = [end for end in ends if end not in prev]
        ends = [*ends, event][-4:]
    await scene.become_whole()
    found = await scene.world.container.database.snapshot(Stored, scene.room)
    since = graph.events[graph.events.index(scene.join) :]
    for event in since:
        assert found.after[event.event_id] == ids(graph.after[event.event_id]), (version, event.type)
    hidden = found.those(events.SOFT_FAILED)
    assert found.tips == graph.tips(hidden)
    assert found.state == ids(graph.resolved([graph.after[tip] for tip in sorted(found.tips)]))


async def test_what_was_said_while_we_came_needs_no_state_of_its_own(network: Network) -> None:
    graph = room_graphs.begin("10")
    tip = graph.events[-1]
    scene = await arrive(network, graph=graph)
    meanwhile = graph.say(CREATOR, "m.room.message", {"msgtype": "m.text", "body": "Who comes?"}, [tip])
    assert await scene.receive(meanwhile) == ["accepted"]
    both = graph.say(CREATOR, "m.room.message", {"msgtype": "m.text", "body": "You!"}, [scene.join, meanwhile])
    assert await scene.receive(both) == ["accepted"]
    await scene.become_whole()
    assert both.event_id in await messages_of(scene.alice, scene.room)
    assert await state_of(scene.alice, scene.room) == ids(graph.after[both.event_id])


async def test_whoever_asks_for_all_members_waits_until_they_are_known(network: Network) -> None:
    scene = await arrive(network)
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(scene.alice.get(f"/rooms/{quote(scene.room)}/{what}"))
            for what in ("members", "joined_members", "state", "state/m.room.member/@eve:c.example")
        ]
        kicking = tasks.create_task(scene.alice.post(f"/rooms/{quote(scene.room)}/kick", {"user_id": "@eve:c.example"}))
        name = await scene.alice.get(f"/rooms/{quote(scene.room)}/state/m.room.power_levels")
        assert name.status_code == 200
        assert not any(task.done() for task in waiting)
        await scene.become_whole()
    members, joined, state, eve = [task.result() for task in waiting]
    assert {event["state_key"] for event in members.json()["chunk"]} == {*room_graphs.USERS, scene.alice.user_id}
    assert set(joined.json()["joined"]) == {*room_graphs.USERS, scene.alice.user_id}
    assert len(state.json()) == len(scene.graph.after[scene.join.event_id])
    assert eve.status_code == 200
    assert kicking.result().status_code == 403


@pytest.mark.behaviours("SS-JOIN-08")
async def test_members_are_written_beforehand_for_nobody_to_see_and_nothing_stays_behind(network: Network) -> None:
    scene = await arrive(network)
    world = scene.world
    [partial] = await world.container.database.read(partial_rooms.list_all)
    # An attempt that the end of the process cut short has written some; one of them is nobody by now.
    ghost, eve = (
        Member(partial.room_nid, UserId(user_id), "join", UserId(user_id), 0, partial.position)
        for user_id in ("@ghost:c.example", "@eve:c.example")
    )
    lost = [replace(one, room_nid=4711) for one in (ghost, eve)]
    await world.container.database.write(coming_members.add_many, [ghost, eve, *lost])
    await network.stop("localhost")
    world = await network.server("localhost")
    await eventually(lambda: world.container.database.read(coming_members.list_rooms), lambda found: 4711 not in found)
    scene.world = world
    alice = User(world.client, scene.alice.user_id, scene.alice.device_id, scene.alice.token)
    scene.answer(scene.before)
    await scene.try_until_whole()
    assert set(await members_of(alice, scene.room)) == {*room_graphs.USERS, alice.user_id}
    await eventually(lambda: world.container.database.read(coming_members.list_rooms), lambda found: not found)


async def test_state_that_does_not_let_us_in_is_not_believed_and_not_fetched_again(network: Network) -> None:
    graph = room_graphs.begin("10")
    alice = "@alice:localhost"
    graph.say(CREATOR, "m.room.member", {"membership": "invite"}, [graph.events[-1]], state_key="@other:b.example")
    scene = await arrive(network, graph=graph)
    tip = graph.by_id[scene.join.prev_events[0]]
    ban = graph.build(CREATOR, "m.room.member", {"membership": "ban"}, [tip], state_key=alice)
    graph.by_id[ban.event_id] = ban
    first = await scene.failed(1)  # So far nobody has answered at all.
    assert first.failure is not None
    scene.answer([*scene.before, ban])
    second = await scene.failed(first.failures + 3)
    assert "could have joined" in (second.failure or "")
    assert await scene.is_partial()
    await scene.alice.send(scene.room, "Still here.")
    # What was stored is stored: after a restart nothing of it is fetched another time.
    await network.stop("localhost")
    scene.world = await network.server("localhost")
    scene.alice.client = scene.world.client
    del scene.asked[:]
    scene.answer(scene.before)
    await scene.become_whole()
    assert set(scene.asked) == {"state_ids"}
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, "@other:b.example", alice}


async def lacking_one(network: Network) -> tuple[Scene, Event]:
    """A room of whose state all is stored but an event, which will be named."""
    graph = room_graphs.begin("10")
    graph.say(CREATOR, "m.room.member", {"membership": "invite"}, [graph.events[-1]], state_key="@other:b.example")
    scene = await arrive(network, graph=graph)
    other = scene.graph.before([graph.by_id[scene.join.prev_events[0]]])["m.room.member", "@other:b.example"]
    tip = graph.by_id[scene.join.prev_events[0]]
    ban = graph.build(CREATOR, "m.room.member", {"membership": "ban"}, [tip], state_key=scene.alice.user_id)
    graph.by_id[ban.event_id] = ban
    scene.answer([*(one for one in scene.before if one is not other), ban])
    while "could have joined" not in ((await scene.failed(1)).failure or ""):
        pass
    scene.answer(scene.before)
    return scene, other


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("R4")
async def test_another_event_than_the_one_asked_for_is_not_taken_and_the_next_server_is_asked(
    network: Network,
) -> None:
    scene, other = await lacking_one(network)
    tip = scene.graph.by_id[scene.join.prev_events[0]]
    stranger = scene.graph.build(
        "@x:silent.example", "m.room.member", {"membership": "join"}, [tip], "@x:silent.example"
    )
    path = f"/_matrix/federation/v1/event/{quote(other.event_id, safe='')}"
    scene.peer.on("GET", path, lambda seen: {"pdus": [json.loads(stranger.pdu)]})
    helper = network.peer("c.example")
    scene.answer(scene.before, peer=helper)
    helper.on("GET", path, lambda seen: {"pdus": [json.loads(other.pdu)]})
    await scene.try_until_whole()
    assert set(await members_of(scene.alice, scene.room)) == {
        *room_graphs.USERS,
        scene.alice.user_id,
        "@other:b.example",
    }


@pytest.mark.behaviours("SS-JOIN-05")
async def test_a_room_is_not_called_whole_while_events_of_it_are_not_given(network: Network) -> None:
    scene, other = await lacking_one(network)
    found = await scene.look_later()
    while found and "It did not give 1 events of the state." not in (found[0].failure or ""):
        found = await scene.look_later()
    assert found
    # Who is never given does not keep the room from being whole.
    await scene.try_until_whole()
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, scene.alice.user_id}
    assert [seen for seen in scene.peer.seen if quote(other.event_id, safe="") in seen.target]


async def test_a_room_that_fails_does_not_keep_others_from_being_whole(network: Network) -> None:
    scene = await arrive(network)
    database = scene.world.container.database
    other = await scene.world.container.sender.room(RoomId(await scene.alice.create_room()))
    assert other.room_nid is not None
    # Nothing is at this place, which cannot be.
    broken = PartialRoom(other.room_nid, 1 << 40, 0, RESIDENT, 0)
    await database.write(partial_rooms.put, broken)
    await eventually(
        scene.look_later,
        lambda found: any(one.room_nid == other.room_nid and one.failures for one in found),
    )
    scene.answer(scene.before)
    await eventually(scene.look_later, lambda found: [one.room_nid for one in found] == [other.room_nid])
    await database.write(partial_rooms.remove, other.room_nid)
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, scene.alice.user_id}


@pytest.mark.trust("R4")
@pytest.mark.parametrize("by_via", [True, False])
async def test_only_the_server_that_let_us_in_adds_more_than_members(network: Network, by_via: bool) -> None:
    scene = await arrive(network)
    tip = scene.graph.by_id[scene.join.prev_events[0]]
    claim = scene.graph.build(CREATOR, "org.example.claim", {"so": True}, [tip], state_key="")
    scene.graph.by_id[claim.event_id] = claim
    scene.answer([*scene.before, claim], peer=scene.peer if by_via else network.peer("c.example"))
    await scene.try_until_whole()
    answer = await scene.alice.get(f"/rooms/{quote(scene.room)}/state/org.example.claim")
    assert answer.status_code == (200 if by_via else 404)
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, scene.alice.user_id}


@pytest.mark.parametrize("user_id", ["@alice:localhost", "@nobody:b.example"])
async def test_servers_are_not_told_which_users_of_others_are_known(network: Network, user_id: str) -> None:
    scene = await arrive(network)
    path = f"/_matrix/federation/v1/make_leave/{quote(scene.room)}/{user_id}"
    answer = await network.peer("c.example").call("localhost", "GET", path)
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")


async def test_members_that_are_not_signed_are_left_out(network: Network) -> None:
    scene = await arrive(network)

    def forge(pdu: bytes) -> bytes:
        event = json.loads(pdu)
        if event["sender"] != "@dan:c.example":
            return pdu
        return altered(pdu, signatures={"c.example": {key_of("c.example").key_id: "A" * 86}})

    scene.answer(scene.before, forge)
    await scene.try_until_whole()
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, scene.alice.user_id} - {
        "@dan:c.example"
    }


async def test_other_servers_are_known_from_the_beginning_and_are_told_to_ask_elsewhere(network: Network) -> None:
    scene = await arrive(network)
    room = await scene.world.container.sender.room(RoomId(scene.room))
    assert room.servers == {*room_graphs.SERVERS, "localhost"}
    path = f"/_matrix/federation/v1/make_join/{quote(scene.room)}/@fay:c.example?ver=10"
    peer = network.peer("c.example")
    assert (await peer.call("localhost", "GET", path)).status_code == 404
    path = f"/_matrix/federation/v1/state_ids/{quote(scene.room)}?event_id={quote(scene.join.event_id)}"
    assert (await peer.call("localhost", "GET", path)).status_code in (403, 404)
    await scene.failed(1)
    [told] = await scene.world.container.database.snapshot(list_joins)
    assert (told.room_id, told.via, told.members, told.servers) == (scene.room, RESIDENT, 1, 3)
    assert "It answered 404" in (told.failure or "")
    joins = "/_synapse/admin/v1/federation/joins"
    device = NewDevice(None, None, refreshable=False)
    _, session = await scene.world.container.accounts.register("root", "rootroot", device, is_admin=True)
    assert session is not None
    headers = {"Authorization": f"Bearer {session.tokens.access_token}"}
    answer = await scene.world.client.send("GET", joins, headers=headers)
    [shown] = answer.json()["joins"]
    assert (shown["room_id"], shown["via"], shown["members_known"], shown["servers"]) == (scene.room, RESIDENT, 1, 3)
    assert shown["failures"] >= told.failures
    assert "It answered 404" in shown["error"]
    assert shown["next_retry_ts"] > shown["since_ts"]
    await scene.become_whole()
    assert await scene.world.container.database.snapshot(list_joins) == []
    room = await scene.world.container.sender.room(RoomId(scene.room))
    assert room.servers == {*room_graphs.SERVERS, "localhost"}
    assert (await peer.call("localhost", "GET", path)).status_code == 200


@pytest.mark.parametrize("in_part", [False, True])
async def test_room_known_in_part_can_be_left_and_joined_again(network: Network, in_part: bool) -> None:
    scene = await arrive(network)
    await scene.alice.leave(scene.room)
    answer = await scene.alice.sync(filter={"room": {"include_leave": True}})
    assert scene.room in answer["rooms"]["leave"]
    assert "Nobody of this server" in ((await scene.failed((await scene.failed(0)).failures + 3)).failure or "")
    graph = scene.graph
    rows = (await scene.alice.get(f"/rooms/{quote(scene.room)}/state/m.room.member/{scene.alice.user_id}")).json()
    assert rows["membership"] == "leave"
    again = join_event(scene.world, graph, scene.alice.user_id, displayname="Alice")
    before = graph.before([graph.by_id[one] for one in again.prev_events])
    await scene.world.container.arrivals.arrive(
        RoomId(scene.room),
        graph.version,
        again.pdu,
        [event.pdu for pair, event in before.items() if not in_part or pair[0] != "m.room.member"],
        [event.pdu for event in chain(graph, [again, *before.values()])],
        partial=[ServerName(name) for name in room_graphs.SERVERS] if in_part else None,
        via=RESIDENT,
    )
    assert await scene.is_partial() == in_part
    if in_part:
        scene.join = again
        await scene.become_whole()
    assert set(await members_of(scene.alice, scene.room)) == {*room_graphs.USERS, scene.alice.user_id}


async def test_two_of_our_servers_join_in_part_and_end_whole(network: Network) -> None:
    resident, joiner = await network.server("one.test"), await network.server("two.test")
    bob = await resident.user("bob")
    room = await bob.create_room(preset="public_chat", name="Here")
    others = [await resident.user(f"user{number}") for number in range(5)]
    for other in others:
        await other.join(room)
    alice = await joiner.user("alice")
    answer = await alice.post(f"/join/{quote(room)}?server_name=one.test")
    assert answer.status_code == 200, answer.text
    said = await alice.send(room, "Hello.")
    database = joiner.container.database
    await eventually(lambda: database.read(partial_rooms.list_all), lambda found: not found)
    assert len(await members_of(alice, room)) == 7
    assert await state_of(alice, room) == await state_of(bob, room)
    await eventually(lambda: messages_of(bob, room), lambda found: said in found)
