"""What people here see of events that other servers send, wherever these stand; on both databases."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.services.rooms.inbox import Outcome
from homeserver.storage import server_keys
from tests import room_graphs
from tests.services.rooms.test_branches import BOB, Scene
from tests.world import User, World


@pytest.fixture
async def scene(world: World) -> Scene:
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
    alice = await world.user("alice")
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    await scene.join(BOB)
    return scene


async def sees(user: User, scene: Scene, event: Event) -> set[bool]:
    """Whether the user sees the event, in all ways of reading."""
    room = quote(scene.room_id)
    page = (await user.get(f"/rooms/{room}/messages", dir="b", limit=100)).json()["chunk"]
    synced = (await user.sync())["rooms"]["join"][scene.room_id]["timeline"]["events"]
    return {
        (await user.get(f"/rooms/{room}/event/{quote(event.event_id)}")).status_code == 200,
        event.event_id in {one["event_id"] for one in page},
        event.event_id in {one["event_id"] for one in synced},
    }


@pytest.mark.trust("S3")
@pytest.mark.behaviours("CS-HIST-01", "CS-HIST-05")
@pytest.mark.parametrize(("rule", "is_seen"), [("joined", False), ("invited", False), ("shared", True)])
async def test_who_joined_beside_a_branch_sees_what_the_state_of_the_branch_allows(
    scene: Scene, rule: str, is_seen: bool
) -> None:
    await scene.alice.set_state(scene.room_id, "m.room.history_visibility", {"history_visibility": rule})
    before = (await scene.graph()).events[-1]
    carol = await scene.world.user("carol")
    await carol.join(scene.room_id)
    since = (await carol.sync())["next_batch"]
    graph = await scene.graph()
    # Bob's server does not know of her yet, and what it says comes when she is here.
    said = graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "before she came"}, [before])
    assert await scene.outcomes(said) == [Outcome.ACCEPTED]
    assert await sees(carol, scene, said) == {is_seen}
    assert await sees(scene.alice, scene, said) == {True}
    answer = await carol.sync(since)
    timeline = answer.get("rooms", {}).get("join", {}).get(scene.room_id, {}).get("timeline", {"events": []})["events"]
    assert (said.event_id in {event["event_id"] for event in timeline}) == is_seen


@pytest.mark.behaviours("CS-EV-08", "CS-EV-03")
async def test_nothing_that_another_server_says_beside_an_event_reaches_clients(scene: Scene) -> None:
    graph = await scene.graph()
    start = graph.events[-1]
    said = graph.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "hello"}, [start])
    named = graph.say(BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, [said], state_key=BOB)
    claims: dict[str, Any] = {
        "age": -5,
        "membership": "ban",
        "transaction_id": "t",
        "prev_content": {"membership": "ban"},
        "replaces_state": "$x",
        "redacted_because": {},
        "m.relations": {"m.reference": {"chunk": [{"event_id": "$x"}]}},
        "org.example": 1,
    }
    for event in (said, named):
        pdu = {**json.loads(event.pdu), "unsigned": claims}
        assert await scene.outcomes(json.dumps(pdu).encode()) == [Outcome.ACCEPTED]
    room = quote(scene.room_id)
    shown = [
        *(await scene.alice.get(f"/rooms/{room}/messages", dir="b", limit=2)).json()["chunk"],
        (await scene.alice.get(f"/rooms/{room}/event/{quote(named.event_id)}")).json(),
        *(await scene.alice.sync())["rooms"]["join"][scene.room_id]["timeline"]["events"],
        (await scene.alice.get(f"/rooms/{room}/state/m.room.member/{quote(BOB)}", format="event")).json(),
    ]
    told = [event for event in shown if event["event_id"] in (said.event_id, named.event_id)]
    assert len(told) == 6
    for event in told:
        unsigned = event["unsigned"]
        assert unsigned["age"] >= 0
        assert unsigned.get("membership", "join") == "join"
        assert unsigned.get("prev_content", {"membership": "join"}) == {"membership": "join"}
        assert unsigned.get("replaces_state") != "$x"
        assert not unsigned.keys() & {"transaction_id", "redacted_because", "m.relations", "org.example"}
        assert not event.keys() & {"auth_events", "prev_events", "hashes", "signatures", "depth"}
