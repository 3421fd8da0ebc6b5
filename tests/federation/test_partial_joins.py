"""Rooms that were joined with a part of their state: they can be used at once, and become whole."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.storage import partial_rooms, server_keys
from tests import room_graphs
from tests.federation.network import Network, Peer, Seen
from tests.room_graphs import CREATOR, Graph
from tests.services.rooms.test_arrival import chain, ids, join_event, members_of, state_of
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
        receipts = await self.world.container.inbox.receive(RoomId(self.room), [event.pdu for event in events])
        return [receipt.outcome.value for receipt in receipts]

    async def is_partial(self) -> bool:
        return bool(await self.world.container.database.read(partial_rooms.list_all))

    async def become_whole(self) -> None:
        """Let the other servers answer, and wait for what comes of it."""
        self.answer()
        self.network.clock.time += 24 * 3600 * 1000
        await eventually(self.is_partial, lambda partial: not partial)

    def answer(self) -> None:
        before = self.graph.before([self.graph.by_id[one] for one in self.join.prev_events])
        auth = chain(self.graph, [self.join, *before.values()])

        def state(seen: Seen) -> Any:
            self.asked.append(seen.target)
            return {
                "pdus": [json.loads(event.pdu) for event in before.values()],
                "auth_chain": [json.loads(event.pdu) for event in auth],
            }

        def state_ids(seen: Seen) -> Any:
            self.asked.append(seen.target)
            return {
                "pdu_ids": [event.event_id for event in before.values()],
                "auth_chain_ids": [event.event_id for event in auth],
            }

        self.peer.on("GET", f"/_matrix/federation/v1/state/{quote(self.room)}", state)
        self.peer.on("GET", f"/_matrix/federation/v1/state_ids/{quote(self.room)}", state_ids)


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
    await scene.world.container.inbox.receive_outliers(
        RoomId(scene.room), [event.pdu for event in chain(graph, [theirs])]
    )
    assert await scene.receive(theirs) == ["accepted"]
    again = graph.say("@eve:c.example", "m.room.message", {"body": "Who are you?"}, [theirs])
    assert await scene.receive(again) == ["accepted"]
    second = await alice.sync(first["next_batch"], filter={"room": {"state": {"lazy_load_members": True}}})
    room = second["rooms"]["join"][scene.room]
    assert [event["event_id"] for event in room["timeline"]["events"]] == [said, theirs.event_id, again.event_id]
    assert "@eve:c.example" in {event["state_key"] for event in room["state"]["events"]}

    await scene.become_whole()
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
