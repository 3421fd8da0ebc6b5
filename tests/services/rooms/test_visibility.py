"""What people here see of events that other servers send, wherever these stand; on both databases."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import OnlookingServer
from homeserver.storage import events, rooms, server_keys
from homeserver.storage.engine import ReadTx
from tests import room_graphs
from tests.api.client.v3.test_account import confirmed
from tests.services.rooms.test_branches import BOB, DAN, Scene
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


def _shown(tx: ReadTx, room_id: str, server: str, event_ids: list[str]) -> dict[str, bool]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    eye = OnlookingServer(tx, StateTrees(), room, ServerName(server))
    rows = events.find_many_by_id(tx, [EventId(one) for one in event_ids])
    shown = eye.shown([rows[EventId(one)] for one in event_ids])
    for one in shown:
        event = Event.parse(one.pdu, room.version, one.stored.event_id)
        assert event.content_hash_matches() == one.is_whole
    return {one.stored.event_id: one.is_whole for one in shown}


async def given(scene: Scene, server: str, *event_ids: str) -> dict[str, bool]:
    """Which of the events another server is given, and whether whole."""
    return await scene.world.container.database.snapshot(_shown, scene.room_id, server, list(event_ids))


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04")
@pytest.mark.parametrize(("rule", "is_whole"), [("joined", False), ("invited", False), ("shared", True)])
async def test_a_server_is_given_what_was_said_before_it_came_as_the_history_visibility_has_it(
    scene: Scene, rule: str, is_whole: bool
) -> None:
    changed = await scene.alice.set_state(scene.room_id, "m.room.history_visibility", {"history_visibility": rule})
    early = await scene.alice.send(scene.room_id, "before")
    topic = await scene.alice.set_state(scene.room_id, "m.room.topic", {"topic": "old"})
    newest = await scene.alice.set_state(scene.room_id, "m.room.topic", {"topic": "new"})
    assert await given(scene, "c.example", early, newest) == {}
    await scene.join(DAN)
    late = await scene.alice.send(scene.room_id, "after")
    own = (await scene.graph()).after[late]["m.room.member", DAN].event_id
    # Bob's server was there all the time.
    everything = (changed, early, topic, newest, late, own)
    assert await given(scene, "b.example", *everything) == dict.fromkeys(everything, True)
    assert await given(scene, "c.example", *everything) == {
        changed: True,  # It was sent while the rule was another, and is of the present state.
        early: is_whole,
        topic: is_whole,
        newest: True,
        late: True,
        own: True,
    }
    # Names that only end or look alike are those of others.
    for name in ("example", "C.EXAMPLE", "ob:c.example", "%", "_.example", ""):
        assert await given(scene, name, early, late) == {}


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-BF-04")
async def test_who_was_invited_is_enough_where_the_invited_may_read(scene: Scene) -> None:
    await scene.alice.set_state(scene.room_id, "m.room.history_visibility", {"history_visibility": "invited"})
    levels = await scene.state("m.room.power_levels")
    await scene.alice.set_state(scene.room_id, "m.room.power_levels", {**levels, "invite": 0})
    graph = await scene.graph()
    invite = graph.say(BOB, "m.room.member", {"membership": "invite"}, [graph.events[-1]], state_key=DAN)
    assert await scene.outcomes(invite) == [Outcome.ACCEPTED]
    said = await scene.alice.send(scene.room_id, "for the invited")
    assert await given(scene, "c.example", said) == {}
    await scene.join("@eve:c.example")
    assert await given(scene, "c.example", said) == {said: True}
    await scene.alice.set_state(scene.room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await scene.alice.post(f"/rooms/{quote(scene.room_id)}/kick", {"user_id": "@eve:c.example"})
    assert await given(scene, "c.example", said) == {}


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-PDU-05", "SS-PDU-04")
async def test_a_server_is_given_what_was_soft_failed_and_not_what_was_rejected(scene: Scene) -> None:
    before = (await scene.graph()).events[-1]
    await scene.join(DAN)
    await scene.alice.post(f"/rooms/{quote(scene.room_id)}/ban", {"user_id": BOB})
    graph = await scene.graph()
    failed = graph.say(BOB, "m.room.message", {"body": "still here"}, [before])
    rejected = graph.say(DAN, "m.room.topic", {"topic": "mine"}, [graph.events[-2]], state_key="")
    assert await scene.outcomes(failed, rejected) == [Outcome.SOFT_FAILED, Outcome.REJECTED]
    assert await given(scene, "c.example", failed.event_id, rejected.event_id) == {failed.event_id: True}


@pytest.mark.trust("S3")
async def test_what_somebody_said_who_is_erased_is_for_the_servers_that_heard_it(scene: Scene) -> None:
    carol = await scene.world.user("carol")
    await carol.join(scene.room_id)
    said = await carol.send(scene.room_id, "forget this")
    answer = await confirmed(carol, "POST", "/account/deactivate", {"erase": True}, "carolcarol")
    assert answer.status_code == 200, answer.text
    await scene.join(DAN)
    assert await given(scene, "b.example", said) == {said: True}
    assert await given(scene, "c.example", said) == {said: False}
