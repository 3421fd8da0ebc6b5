"""Other servers, and guests, at the door of rooms that are known in part or not at all."""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_event
from homeserver.outbound.transport import Call, Reply
from homeserver.storage import partial_rooms
from tests.federation.foreign import FEDERATION, ForeignRoom, complete, hand_over, make
from tests.federation.network import Network, Peer
from tests.federation.test_hierarchy import HIERARCHY
from tests.federation.test_hierarchy import room as told_of
from tests.federation.test_joins import join_by
from tests.federation.test_restricted import restricted_room
from tests.federation.test_silent_servers import tried
from tests.room_graphs import key_of
from tests.world import User, World, eventually, until


async def joined_in_part(network: Network, *others: str) -> tuple[World, User, ForeignRoom]:
    """A room of which the server of our user knows a part, and will for long; everybody in it may invite.

    The server that lets our user in says that `others` are in the room.
    """
    world = await network.server("b.test")
    bob = await world.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), join_rule="invite")
    levels = room.state["m.room.power_levels", ""].content
    room.say("m.room.power_levels", levels | {"invite": 0}, state_key="")
    room.host()

    def welcome(seen: Any) -> Any:
        answer = room.welcome(seen)
        kept = [one for one in answer["state"] if one["type"] != "m.room.member"]
        return answer | {"state": kept, "members_omitted": True, "servers_in_room": ["p.test", *others]}

    room.peer.on("PUT", f"{FEDERATION}/v2/send_join/", welcome)
    invite = room.invite(bob.user_id)
    assert (await room.send_invite("b.test", invite)).status_code == 200
    room.take(invite)
    assert (await join_by(bob, room.room_id)).status_code == 200
    assert await world.container.database.read(partial_rooms.list_all)
    return world, bob, room


async def invited(user: User, by: User, room_id: str) -> None:
    """Invite somebody, and wait until that is known there."""
    answer = await by.post(f"/rooms/{quote(room_id)}/invite", {"user_id": user.user_id})
    assert answer.status_code == 200, answer.text
    assert room_id in (await user.sync())["rooms"]["invite"]


@pytest.mark.behaviours("SS-JOIN-05", "SS-INV-05")
async def test_who_is_invited_from_a_room_known_in_part_can_come_in(network: Network) -> None:
    _, bob, room = await joined_in_part(network)
    c = await network.server("c.test")
    cat = await c.user("cat")
    await invited(cat, bob, room.room_id)
    # The only server that Cat's knows to be in the room is Bob's.
    answer = await join_by(cat, room.room_id)
    assert answer.status_code == 200, answer.text
    hot = await c.container.sender.room(RoomId(room.room_id))
    assert {"b.test", "p.test"} <= hot.servers
    assert await c.container.database.read(partial_rooms.list_all)
    said = await cat.send(room.room_id, "Thank you.")
    state = f"/rooms/{quote(room.room_id)}/state/m.room.name/"

    async def heard() -> bool:
        events = (await bob.sync())["rooms"]["join"][room.room_id]["timeline"]["events"]
        return said in [event["event_id"] for event in events]

    await eventually(heard, bool)
    assert (await cat.get(state)).json() == {"name": "Abroad"}


@pytest.mark.behaviours("SS-INV-05")
async def test_who_is_invited_from_a_room_known_in_part_can_refuse(network: Network) -> None:
    world, bob, room = await joined_in_part(network)
    cat = await (await network.server("c.test")).user("cat")
    await invited(cat, bob, room.room_id)
    assert (await cat.post(f"/rooms/{quote(room.room_id)}/leave")).status_code == 200

    hot = await world.container.sender.room(RoomId(room.room_id))
    assert hot.membership_of(cat.user_id) == "leave"


@pytest.mark.trust("S3")
async def test_nobody_comes_in_by_a_server_that_does_not_know_whether_they_may(network: Network) -> None:
    _, bob, room = await joined_in_part(network)
    q = network.peer("q.test")
    cat = "@cat:q.test"
    q.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: {"event": _signed(q, seen.content)})
    assert (await bob.post(f"/rooms/{quote(room.room_id)}/invite", {"user_id": cat})).status_code == 200
    for membership in ("join", "knock", "leave"):
        answer = await make(q, "b.test", membership, room.room_id, "@fay:q.test", *ROOM_VERSIONS)
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
    made = await make(q, "b.test", "join", room.room_id, cat, *ROOM_VERSIONS)
    assert made.status_code == 200, made.text
    # With her invite she could write her join, but not one of somebody of whom nothing is known.
    fay = complete(q, made.json(), sender="@fay:q.test", state_key="@fay:q.test")
    answer = await hand_over(q, "b.test", "join", room.room_id, fay, query="?omit_members=true")
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
    # And all members cannot be told to a server that wants no less.
    join = complete(q, made.json())
    answer = await hand_over(q, "b.test", "join", room.room_id, join)
    assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
    answer = await hand_over(q, "b.test", "join", room.room_id, join, query="?omit_members=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["members_omitted"] is True
    assert set(answer.json()["servers_in_room"]) == {"b.test", "p.test"}


@pytest.mark.behaviours("SS-JOIN-05")
@pytest.mark.trust("S3", "R4")
async def test_what_servers_read_of_a_room_known_in_part(network: Network) -> None:
    _, bob, room = await joined_in_part(network, "q.test")
    q = network.peer("q.test")
    event_id = await bob.send(room.room_id, "Hello.")
    room_id, event, tip = quote(room.room_id), quote(event_id, safe=""), quote(room.tip.event_id, safe="")
    # "The server doesn't know about the state at that event to return anything useful."
    for path in (f"state/{room_id}?event_id={event}", f"state_ids/{room_id}?event_id={event}"):
        answer = await q.call("b.test", "GET", f"{FEDERATION}/v1/{path}")
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")

    async def ids(answer: Any, name: str) -> set[str]:
        assert answer.status_code == 200, answer.text
        return {Event.parse(json.dumps(pdu).encode(), room.version).event_id for pdu in answer.json()[name]}

    # All that is no state is as it is elsewhere.
    path = f"{FEDERATION}/v1/event/{event}"
    assert await ids(await q.call("b.test", "GET", path), "pdus") == {event_id}
    path = f"{FEDERATION}/v1/backfill/{room_id}?v={event}&limit=10"
    assert await ids(await q.call("b.test", "GET", path), "pdus") == {event_id, room.tip.event_id}
    body = {"earliest_events": [], "latest_events": [event_id], "limit": 10}
    path = f"{FEDERATION}/v1/get_missing_events/{room_id}"
    assert await ids(await q.call("b.test", "POST", path, body), "events") == {room.tip.event_id}
    path = f"{FEDERATION}/v1/event_auth/{room_id}/{tip}"
    chain = await ids(await q.call("b.test", "GET", path), "auth_chain")
    assert set(room.tip.auth_events) <= chain
    path = f"{FEDERATION}/v1/timestamp_to_event/{room_id}?ts={network.clock.now() + 1}&dir=b"
    assert (await q.call("b.test", "GET", path)).json()["event_id"] == event_id
    path = f"{FEDERATION}/v1/hierarchy/{room_id}"
    answer = await q.call("b.test", "GET", path)
    assert (answer.status_code, answer.json()["room"]["name"]) == (200, "Abroad"), answer.text
    # Who is in no way known to be in the room reads nothing of it.
    stranger = network.peer("stranger.test")
    for path in (f"state/{room_id}?event_id={event}", f"backfill/{room_id}?v={event}&limit=10"):
        assert (await stranger.call("b.test", "GET", f"{FEDERATION}/v1/{path}")).status_code == 403


@pytest.mark.behaviours("SS-JOIN-06")
async def test_room_known_in_part_does_not_say_who_meets_a_condition(network: Network) -> None:
    _, bob, room = await joined_in_part(network)
    q = network.peer("q.test")
    room_id = await restricted_room(bob, room.room_id)
    answer = await make(q, "b.test", "join", room_id, "@cat:q.test", *ROOM_VERSIONS)
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
    # Of whom it is known that they are members, that is enough.
    room.say("m.room.message", {"body": "I am here."})
    await room.peer.send("b.test", "1", room.tip.pdu)
    made = await make(room.peer, "b.test", "join", room_id, room.owner, *ROOM_VERSIONS)
    assert made.status_code == 200, made.text


@pytest.mark.trust("R6", "C18")
async def test_of_a_server_whose_members_are_not_known_few_users_are_believed(network: Network) -> None:
    _, bob, room = await joined_in_part(network)
    event_id = await bob.send(room.room_id, "Read this.")
    read = {"event_ids": [event_id], "data": {"ts": 1}}
    users = [f"@reader{number}:p.test" for number in range(150)]
    receipts = {room.room_id: {"m.read": dict.fromkeys(users, read)}}
    await room.peer.send("b.test", "receipts", edus=[{"edu_type": "m.receipt", "content": receipts}])
    typing = [
        {"edu_type": "m.typing", "content": {"room_id": room.room_id, "user_id": user_id, "typing": True}}
        for user_id in users
    ]
    for number in range(0, len(typing), 50):
        await room.peer.send("b.test", f"typing{number}", edus=typing[number : number + 50])
    told = (await bob.sync())["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    contents = {event["type"]: event["content"] for event in told}
    assert set(contents["m.receipt"][event_id]["m.read"]) == set(users[:100])
    assert set(contents["m.typing"]["user_ids"]) == set(users[:100])


@pytest.mark.trust("R6", "S5", "S8")
async def test_nobody_has_this_server_send_to_whomever_it_likes_for_long(network: Network) -> None:
    victims = [f"victim.test:{port}" for port in range(8000, 8050)]
    world, bob, room = await joined_in_part(network, *victims, "invented.test")
    sent: list[tuple[str, bytes]] = []

    async def weather(call: Call, carry: Callable[[], Awaitable[Reply]]) -> Reply:
        sent.append((call.destination, call.body or b""))
        return await carry()

    def had(text: str) -> set[str]:
        return {destination for destination, body in sent if text.encode() in body}

    network.weather = weather
    room.peer.on("PUT", f"{FEDERATION}/v1/send/", lambda seen: {"pdus": {}})
    await bob.send(room.room_id, "at once")
    await until(lambda: had("at once") == {"p.test", *victims[:3], "invented.test"})
    # A day later the one that has let him in is not believed any more.
    network.clock.time += 25 * 3600 * 1000
    before = await tried(network, world, 1)
    await tried(network, world, before.failures + 1)
    await bob.send(room.room_id, "a day later")
    await until(lambda: "p.test" in had("a day later"))
    # One of those that was only down has what was said while it was believed in, and nothing else.
    invented = network.peer("invented.test")
    invented.on("PUT", f"{FEDERATION}/v1/send/", lambda seen: {"pdus": {}})
    del sent[:]
    network.clock.advance(2 * 24 * 3600)
    await until(lambda: "invented.test" in had("at once"))
    await bob.send(room.room_id, "the end")
    await until(lambda: "p.test" in had("the end"))
    assert had("a day later") == set()


def _signed(peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
    event = Event.parse(json.dumps(content["event"]).encode(), content["room_version"])
    both = content["event"]["signatures"] | sign_event(event, peer.name, key_of(peer.name)).signatures
    return content["event"] | {"signatures": both}


def open_room(network: Network, access: str | None, *, said: bool) -> ForeignRoom:
    """A public room, of which its server says whether guests may join."""
    room = ForeignRoom.begin(network.peer("p.test"))
    if access is not None:
        room.say("m.room.guest_access", {"guest_access": access}, state_key="")
    room.host()
    shown = told_of(room.room_id, guest_can_join=said)
    room.peer.on("GET", HIERARCHY, lambda seen: {"room": shown, "children": [], "inaccessible_children": []})
    return room


@pytest.mark.behaviours("CS-MEM-03")
async def test_guest_joins_a_room_elsewhere_that_is_open_to_guests(network: Network) -> None:
    guest = await (await network.server("b.test")).guest("gast")
    room = open_room(network, "can_join", said=True)
    answer = await join_by(guest, room.room_id, "p.test")
    assert answer.status_code == 200, answer.text
    assert await guest.send(room.room_id, "Hello.")


@pytest.mark.trust("S4")
@pytest.mark.parametrize(("access", "said"), [("can_join", False), ("forbidden", True), (None, True)])
async def test_guest_stays_out_of_rooms_elsewhere_that_are_not_open(
    network: Network, access: str | None, said: bool
) -> None:
    b = await network.server("b.test")
    guest = await b.guest("gast")
    room = open_room(network, access, said=said)
    answer = await join_by(guest, room.room_id, "p.test")
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN"), answer.text
    # Where the server did not say so, the guest is out again.
    assert room.calls("make_join") == (["make_join"] if said else [])
    assert (await guest.get("/joined_rooms")).json()["joined_rooms"] == []


@pytest.mark.trust("S4")
async def test_what_is_known_of_a_room_elsewhere_is_not_replaced_by_what_a_guest_has_asked(network: Network) -> None:
    b = await network.server("b.test")
    room = open_room(network, "forbidden", said=False)
    assert (await join_by(await b.guest("gast"), room.room_id, "p.test")).status_code == 403
    liar = network.peer("liar.test")
    shown = told_of(room.room_id, guest_can_join=True)
    liar.on("GET", HIERARCHY, lambda seen: {"room": shown, "children": [], "inaccessible_children": []})
    assert (await join_by(await b.guest("other"), room.room_id, "liar.test")).status_code == 403
    assert not [seen for seen in liar.seen if seen.target.startswith(HIERARCHY)]
