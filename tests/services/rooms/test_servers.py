"""Which servers are in a room, and what is noted down to be sent to them."""

from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.services.rooms.receipts import Outcome
from homeserver.storage import outgoing, room_servers, rooms, server_keys
from homeserver.storage.engine import ReadTx
from homeserver.storage.outgoing import outgoing_events
from homeserver.storage.room_servers import room_servers as table
from tests import room_graphs
from tests.services.rooms.test_branches import Scene
from tests.world import World, running, settings

B, C = "b.example", "c.example"


def list_outgoing(tx: ReadTx) -> list[tuple[str | None, str | None]]:
    rows = tx.connection.execute(outgoing_events.select().order_by(outgoing_events.c.position))
    return [(row.except_for, row.also_to) for row in rows]


def list_intervals(tx: ReadTx) -> list[tuple[str, bool]]:
    """The servers in the order in which they came, and whether they are still there."""
    rows = tx.connection.execute(table.select().order_by(table.c.since))
    return [(row.server_name, row.until is None) for row in rows]


async def servers(world: World, room_id: str) -> set[str]:
    room = await world.container.sender.room(RoomId(room_id))
    nid = await world.container.database.read(rooms.find_nid, RoomId(room_id))
    assert nid is not None
    assert await world.container.database.read(room_servers.list_open, nid) == room.servers - {"localhost"}
    return {str(server) for server in room.servers}


@pytest.mark.behaviours("SS-PDU-10")
@pytest.mark.trust("I7", "K7")
async def test_servers_of_a_room_follow_its_members_and_own_events_are_noted(database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        database = world.container.database
        await database.write(server_keys.put_many, room_graphs.server_keys())
        alice = await world.user("alice")
        scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
        await alice.send(scene.room_id, "to nobody")
        assert await servers(world, scene.room_id) == {"localhost"}
        assert await database.read(list_outgoing) == []
        graph = await scene.graph()
        tip = graph.events[-1]
        for user in (f"@bob:{B}", f"@cat:{B}", f"@dan:{C}"):
            tip = graph.say(user, "m.room.member", {"membership": "join"}, [tip], state_key=user)
            assert await scene.outcomes(tip) == [Outcome.ACCEPTED]
        assert await servers(world, scene.room_id) == {"localhost", B, C}
        # What others say they send themselves.
        assert await database.read(list_outgoing) == []
        await alice.send(scene.room_id, "to all")
        assert await database.read(list_outgoing) == [(None, None)]
        room = f"/rooms/{quote(scene.room_id)}"
        for user, left in ((f"@bob:{B}", {B, C}), (f"@cat:{B}", {C})):
            assert (await alice.post(f"{room}/kick", {"user_id": user})).status_code == 200
            assert await servers(world, scene.room_id) == {"localhost", *left}
        assert len(await database.read(list_outgoing)) == 3
        assert await database.read(list_intervals) == [(B, False), (C, True)]
        await world.fsck()


async def test_servers_that_come_and_go_at_once_are_noted_in_order(database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        b, c = ServerName(B), ServerName(C)
        await world.container.database.write(
            room_servers.change, [(b, 1, 10), (b, 1, 30), (c, 1, 15)], [(b, 1, 20), (c, 1, 40)]
        )
        assert await world.container.database.read(list_intervals) == [(B, False), (C, False), (B, True)]
        await world.container.database.write(room_servers.replace, 1, {c}, 50)
        assert await world.container.database.read(room_servers.list_open, 1) == {C}
        # What is known already is said again after a crash.
        await world.container.database.write(room_servers.change, [(c, 1, 60)], [])
        assert await world.container.database.read(room_servers.list_open, 1) == {C}


async def test_an_event_that_was_let_in_is_forwarded(database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        alice = await world.user("alice")
        room_id = await alice.create_room()
        nid = await world.container.database.read(rooms.find_nid, RoomId(room_id))
        assert nid is not None
        await world.container.database.write(outgoing.forward, nid, ServerName(B))
        assert await world.container.database.read(list_outgoing) == [(B, None)]
