"""Joining rooms in which servers have spoken that are silent now: what they signed cannot be proven yet."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.outbound.transport import Reply
from homeserver.services.rooms.landing import PARTIAL
from homeserver.services.rooms.partial import COMPLETED
from homeserver.storage import partial_rooms
from homeserver.storage.partial_rooms import PartialRoom
from tests.federation.foreign import FEDERATION, ForeignRoom
from tests.federation.network import Network, Seen
from tests.federation.test_joins import join_by
from tests.world import User, World, eventually

SPEAKER = "@dan:silent.test"
KEYS = "/_matrix/key/v2/server"


async def foreign_room(
    network: Network,
    speaks: str,
    content: dict[str, Any],
    *,
    version: str = "11",
    state_key: str = "",
    rules: int = 0,
) -> ForeignRoom:
    """A room in whose state is what somebody on a silent server has said, after so many changes of the rules."""
    room = ForeignRoom.begin(network.peer("p.test"), version)
    powers = room.state["m.room.power_levels", ""].content
    users = powers["users"] | {SPEAKER: 50}
    room.say("m.room.power_levels", powers | {"users": users}, state_key="")
    room.say("m.room.member", {"membership": "join"}, sender=SPEAKER, state_key=SPEAKER)
    for number in range(rules):
        changed = powers | {"users": users, "events": {"org.example.rule": number % 50}}
        room.say("m.room.power_levels", changed, sender=SPEAKER, state_key="")
    room.say(speaks, content, sender=SPEAKER, state_key=state_key)
    room.host()
    network.peer("silent.test").awake.clear()
    return room


async def room_of_a_server_without_keys(network: Network) -> ForeignRoom:
    """A room whose topic somebody has set on a server that answers, and does not tell its keys."""
    room = await foreign_room(network, "m.room.topic", {"topic": "Silence"})
    whole = {"pdus": [json.loads(one.pdu) for one in room.state.values()], "auth_chain": []}
    room.peer.on("GET", f"{FEDERATION}/v1/state/", lambda seen: whole)
    speaker = network.peers["silent.test"]
    speaker.on("GET", KEYS, lambda seen: Reply(503, {}, b"{}"))
    speaker.awake.set()
    return room


async def state(user: User, room: ForeignRoom, type_: str) -> Any:
    """What a state event says; None if there is none."""
    answer = await user.get(f"/rooms/{quote(room.room_id)}/state/{type_}/")
    return answer.json() if answer.status_code == 200 else None


async def becomes_whole(network: Network, world: World) -> None:
    while await world.container.database.read(partial_rooms.list_all):
        await try_again(network, world)


async def try_again(network: Network, world: World) -> None:
    """Let so much time pass that the rest of the room is asked for again."""
    notifier = world.container.notifier
    with notifier.waiting_for([COMPLETED]) as waiter:
        network.clock.advance(3600)
        notifier.changed(notifier.latest, {PARTIAL})
        await waiter.wait(0.05)


async def tried(network: Network, world: World, times: int) -> PartialRoom:
    """Wait until the rest of the room was asked for so often in vain."""
    while True:
        [found] = await world.container.database.read(partial_rooms.list_all)
        if found.failures >= times and found.failure is not None:
            return found
        await try_again(network, world)


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("F24")
async def test_a_silent_server_does_not_delay_a_join_and_what_it_said_comes_later(network: Network) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = await foreign_room(network, "m.room.topic", {"topic": "Silence"})
    before = list(room.state.values())
    async with asyncio.timeout(5):  # It would be waited for twice as long.
        answer = await join_by(bob, room.room_id, "p.test")
    assert answer.status_code == 200, answer.text
    since = (await bob.sync())["next_batch"]
    assert await state(bob, room, "m.room.topic") is None
    assert await state(bob, room, "m.room.name") == {"name": "Abroad"}
    await bob.send(room.room_id, "Anybody here?")

    def whole(seen: Seen) -> Any:
        return {"pdus": [json.loads(one.pdu) for one in before], "auth_chain": []}

    network.peers["silent.test"].awake.set()
    room.peer.on("GET", f"{FEDERATION}/v1/state/", whole)
    await becomes_whole(network, world)
    assert await state(bob, room, "m.room.topic") == {"topic": "Silence"}
    told = (await bob.sync(since))["rooms"]["join"][room.room_id]
    assert {(one["type"], one["state_key"]) for one in told["state"]["events"]} == {
        ("m.room.topic", ""),
        ("m.room.member", SPEAKER),
    }


async def test_nobody_comes_in_without_knowing_that_a_room_is_encrypted(network: Network) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    room = await foreign_room(network, "m.room.encryption", algorithm)
    async with asyncio.TaskGroup() as tasks:
        joining = tasks.create_task(join_by(bob, room.room_id, "p.test"))
        done, _ = await asyncio.wait({joining}, timeout=2)
        assert not done
        network.peers["silent.test"].awake.set()
    assert joining.result().status_code == 200
    assert await state(bob, room, "m.room.encryption") == algorithm
    assert not await world.container.database.read(partial_rooms.list_all)


@pytest.mark.parametrize("version", ["11", "12"])
async def test_the_server_that_made_a_room_is_waited_for(network: Network, version: str) -> None:
    bob = await (await network.server("b.test")).user("bob")
    room = ForeignRoom.begin(network.peer("silent.test"), version)
    room.peer = network.peer("p.test")
    room.host()
    network.peers["silent.test"].awake.clear()
    async with asyncio.TaskGroup() as tasks:
        joining = tasks.create_task(join_by(bob, room.room_id, "p.test"))
        done, _ = await asyncio.wait({joining}, timeout=2)
        assert not done
        network.peers["silent.test"].awake.set()
    assert joining.result().status_code == 200, joining.result().text
    assert await state(bob, room, "m.room.create") == room.state["m.room.create", ""].content


@pytest.mark.trust("F24")
async def test_state_that_protects_nobody_is_not_waited_for(network: Network) -> None:
    bob = await (await network.server("b.test")).user("bob")
    room = await foreign_room(network, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, state_key="other")
    async with asyncio.timeout(5):
        answer = await join_by(bob, room.room_id, "p.test")
    assert answer.status_code == 200, answer.text


@pytest.mark.trust("F24")
async def test_a_join_that_rests_on_too_much_of_a_silent_server_fails_soon(network: Network) -> None:
    bob = await (await network.server("b.test")).user("bob")
    room = await foreign_room(network, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, rules=200)
    async with asyncio.timeout(6):
        answer = await join_by(bob, room.room_id, "p.test")
    assert answer.status_code == 502, answer.text
    assert (await bob.get("/joined_rooms")).json()["joined_rooms"] == []


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("R4")
async def test_a_room_is_not_called_whole_while_keys_may_still_come(network: Network) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = await room_of_a_server_without_keys(network)
    answer = await join_by(bob, room.room_id, "p.test")
    assert answer.status_code == 200, answer.text

    await eventually(
        lambda: world.container.database.read(partial_rooms.list_all),
        lambda found: not found or found[0].failure is not None,
    )
    [known_in_part] = await world.container.database.read(partial_rooms.list_all)
    assert known_in_part.failure == "2 events are signed by keys that cannot be had at the moment."
    del network.peers["silent.test"].answers["GET", KEYS]
    await becomes_whole(network, world)
    assert await state(bob, room, "m.room.topic") == {"topic": "Silence"}


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("R4", "R7")
async def test_while_nobody_tells_the_state_no_patience_with_keys_is_used_up(network: Network) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = await room_of_a_server_without_keys(network)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    network.cut("p.test")
    down = await tried(network, world, 6)
    network.heal("p.test")
    before = await tried(network, world, down.failures + 2)
    assert before.failure == "2 events are signed by keys that cannot be had at the moment."
    # How often that was so is not forgotten.
    await network.stop("b.test")
    world = await network.server("b.test")
    bob.client = world.client
    await tried(network, world, before.failures + 1)
    del network.peers["silent.test"].answers["GET", KEYS]
    await becomes_whole(network, world)
    assert await state(bob, room, "m.room.topic") == {"topic": "Silence"}


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("R4", "S1")
@pytest.mark.parametrize("knows_all", [True, False])
async def test_what_was_left_out_is_had_from_others_where_the_server_that_let_us_in_is_gone(
    network: Network, knows_all: bool
) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = await foreign_room(network, "m.room.topic", {"topic": "Silence"})
    topic = room.tip
    cat = "@cat:q.test"
    room.say("m.room.member", {"membership": "join"}, sender=cat, state_key=cat)
    before = list(room.state.values())
    claim = room.graph.build(cat, "org.example.claim", {"so": True}, [room.tip], state_key=cat)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    network.cut("p.test")
    other = network.peer("q.test")
    told = [one for one in (*before, claim) if knows_all or one is not topic]
    answer = {"pdus": [json.loads(one.pdu) for one in told], "auth_chain": []}
    other.on("GET", f"{FEDERATION}/v1/state/", lambda seen: answer)
    ids = {"pdu_ids": [one.event_id for one in told], "auth_chain_ids": []}
    other.on("GET", f"{FEDERATION}/v1/state_ids/", lambda seen: ids)
    given = {"pdus": [json.loads(topic.pdu)]}
    other.on("GET", f"{FEDERATION}/v1/event/{quote(topic.event_id, safe='')}", lambda seen: given)
    network.peers["silent.test"].awake.set()
    await becomes_whole(network, world)
    assert await state(bob, room, "m.room.topic") == {"topic": "Silence"}
    # What only the other server calls state was not told by the one that was asked for it at the join.
    answer_to_claim = await bob.get(f"/rooms/{quote(room.room_id)}/state/org.example.claim/{quote(cat)}")
    assert answer_to_claim.status_code == 404


@pytest.mark.behaviours("SS-JOIN-05")
async def test_servers_that_are_gone_for_good_do_not_keep_a_room_from_being_whole(network: Network) -> None:
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = await room_of_a_server_without_keys(network)
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    await becomes_whole(network, world)
    assert await state(bob, room, "m.room.topic") is None


@pytest.mark.behaviours("SS-INV-01")
@pytest.mark.parametrize("version", ["11", "12"])
async def test_an_invite_does_not_hang_on_a_silent_server(network: Network, version: str) -> None:
    bob = await (await network.server("b.test")).user("bob")
    room = await foreign_room(network, "m.room.topic", {"topic": "Silence"}, version=version)
    async with asyncio.timeout(6):
        answer = await room.send_invite("b.test", room.invite(bob.user_id))
    assert answer.status_code == 200, answer.text
    told = (await bob.sync())["rooms"]["invite"][room.room_id]["invite_state"]["events"]
    types = {event["type"] for event in told}
    assert "m.room.name" in types
    assert "m.room.topic" not in types
