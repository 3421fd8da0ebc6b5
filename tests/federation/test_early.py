"""What others say in a room while somebody is only just joining it."""

import json
from typing import Any

import pytest

from homeserver.matrix.events import Event
from tests import room_graphs
from tests.federation.network import Network, Seen
from tests.room_graphs import CREATOR, Graph
from tests.services.rooms.test_arrival import chain
from tests.services.rooms.test_branches import Scene
from tests.world import User, eventually

pytestmark = pytest.mark.anyio

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


async def join_while(network: Network, alice: User, graph: Graph, speakers: dict[str, str]) -> None:
    """Join a room while peers speak in it, each this user of theirs, twice the same."""
    peer = network.peers["a.example"]

    def make_join(seen: Seen) -> Any:
        tip = graph.events[-1]
        template = graph.build(alice.user_id, "m.room.member", {"membership": "join"}, [tip], state_key=alice.user_id)
        event = json.loads(template.pdu)
        return {"room_version": "10", "event": {name: event[name] for name in event if name != "signatures"}}

    async def send_join(seen: Seen) -> Any:
        join = Event.parse(json.dumps(seen.content).encode(), "10")
        before = graph.before([graph.events[-1]])
        graph.add(join, [graph.events[-1]])
        for name, user_id in speakers.items():
            said = graph.say(user_id, "m.room.message", {"body": f"welcome from {name}"}, [join])
            for txn in range(2):
                await network.peers[name].send("here.test", f"{txn}", said.pdu)
        return {
            "event": seen.content,
            "state": [json.loads(event.pdu) for event in before.values()],
            "auth_chain": [json.loads(event.pdu) for event in chain(graph, [join, *before.values()])],
            "members_omitted": False,
        }

    peer.on("GET", f"{V1}/make_join", make_join)
    peer.on("PUT", f"{V2}/send_join", send_join)
    answer = await alice.post(f"/join/{graph.room_id}?via=a.example")
    assert answer.status_code == 200, answer.text


@pytest.mark.trust("F30", "R4", "F47")
async def test_what_comes_while_somebody_joins_is_taken_in_when_the_room_is_known(network: Network) -> None:
    here = await network.server("here.test")
    alice = await here.user("alice")
    peer = network.peer("a.example")
    network.peer("b.example")
    network.peer("c.example")
    graph = room_graphs.begin("10")
    await join_while(network, alice, graph, {peer.name: CREATOR})
    scene = Scene(here, alice, graph.room_id)
    await eventually(scene.bodies, lambda bodies: bodies == ["welcome from a.example"])
    # Nobody joins now: what is said elsewhere is none of ours.
    other = room_graphs.begin("10", 7)
    results = await peer.send("here.test", "last", other.events[-1].pdu)
    assert results[other.events[-1].event_id] == {"error": "This server does not know the room."}


@pytest.mark.behaviours("CS-ACL-01")
@pytest.mark.trust("C31", "S3")
async def test_who_is_kept_out_does_not_speak_while_somebody_joins(network: Network) -> None:
    here = await network.server("here.test")
    alice = await here.user("alice")
    for name in room_graphs.SERVERS:
        network.peer(name)
    graph = room_graphs.begin("10")
    acl = {"allow": ["*"], "deny": ["b.example"]}
    graph.say(CREATOR, "m.room.server_acl", acl, [graph.events[-1]], state_key="")
    await join_while(network, alice, graph, {"b.example": "@bob:b.example", "c.example": "@dan:c.example"})
    scene = Scene(here, alice, graph.room_id)
    await eventually(scene.bodies, lambda bodies: "welcome from c.example" in bodies)
    assert await scene.bodies() == ["welcome from c.example"]
