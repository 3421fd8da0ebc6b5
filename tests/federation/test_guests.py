"""Guests are in rooms of other servers only as long as these let guests in."""

import pytest
from sqlalchemy import update

from homeserver.storage.engine import WriteTx
from homeserver.storage.users import users
from tests.federation.foreign import FEDERATION, ForeignRoom, refusal
from tests.federation.network import Network
from tests.federation.test_hierarchy import HIERARCHY
from tests.federation.test_hierarchy import room as told_of
from tests.federation.test_in_part import open_room
from tests.federation.test_joins import join_by
from tests.world import User, World, eventually

pytestmark = pytest.mark.anyio


async def rooms_of(user: User) -> list[str]:
    joined: list[str] = (await user.get("/joined_rooms")).json()["joined_rooms"]
    return joined


async def guest_in(network: Network) -> tuple[World, User, ForeignRoom]:
    """A guest in a room of another server."""
    world = await network.server("b.test")
    guest = await world.guest("gast")
    room = open_room(network, "can_join", said=True)
    assert (await join_by(guest, room.room_id, "p.test")).status_code == 200
    room.peer.on("PUT", f"{FEDERATION}/v1/send/", lambda seen: {"pdus": {}})
    return world, guest, room


@pytest.mark.behaviours("CS-MEM-03")
async def test_guests_leave_when_somebody_elsewhere_closes_the_room_to_them(network: Network) -> None:
    world, guest, room = await guest_in(network)
    bob = await world.user("bob")
    assert (await join_by(bob, room.room_id, "p.test")).status_code == 200
    closed = room.say("m.room.guest_access", {"guest_access": "forbidden"}, state_key="")
    await room.peer.send("b.test", "closed", closed.pdu)
    await eventually(lambda: rooms_of(guest), lambda joined: joined == [])
    assert await rooms_of(bob) == [room.room_id]
    told = [pdu for seen in room.peer.seen if "/send/" in seen.target for pdu in seen.content["pdus"]]
    left = [pdu for pdu in told if pdu["type"] == "m.room.member" and pdu["content"]["membership"] == "leave"]
    assert {pdu["state_key"] for pdu in left} <= {guest.user_id}


@pytest.mark.behaviours("CS-MEM-03")
@pytest.mark.trust("R7")
async def test_a_guest_for_whose_leaving_there_was_no_time_leaves_at_the_next_start(network: Network) -> None:
    world = await network.server("b.test")
    gast = await world.user("gast")
    room = open_room(network, "forbidden", said=True)
    assert (await join_by(gast, room.room_id, "p.test")).status_code == 200

    def become_guest(tx: WriteTx) -> None:
        tx.connection.execute(update(users).where(users.c.user_id == gast.user_id).values(is_guest=True))

    # As if the server had ended between the join and what follows.
    await world.container.database.write(become_guest)
    await network.stop("b.test")
    gast.client = (await network.server("b.test")).client
    await eventually(lambda: rooms_of(gast), lambda joined: joined == [])


@pytest.mark.behaviours("CS-MEM-03")
async def test_whoever_names_the_wrong_server_keeps_no_other_guest_out(network: Network) -> None:
    b = await network.server("b.test")
    room = open_room(network, "can_join", said=True)
    shown = told_of(room.room_id, guest_can_join=True)
    room.peer.on("GET", HIERARCHY, lambda seen: refusal(404, "M_NOT_FOUND"))
    room.peer = network.peer("q.test")
    room.peer.on("GET", HIERARCHY, lambda seen: {"room": shown, "children": [], "inaccessible_children": []})
    room.host()
    nobody = network.peer("nobody.test")
    assert (await join_by(await b.guest("erster"), room.room_id, "nobody.test")).status_code == 403
    assert [seen for seen in nobody.seen if seen.target.startswith(HIERARCHY)]
    answer = await join_by(await b.guest("zweiter"), room.room_id, "q.test")
    assert answer.status_code == 200, answer.text
