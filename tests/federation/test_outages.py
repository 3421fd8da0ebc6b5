"""What waits for a server that is down is bounded, and nothing is missing when it is back."""

from urllib.parse import quote

import pytest

from homeserver.errors import Unreachable
from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.destinations import Destination
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import DEVICE_LIST, TO_DEVICE, OutgoingEdu
from tests.api.client.v3.test_keys import device_key, identity, query, upload
from tests.federation.network import Network
from tests.federation.scenarios import join
from tests.federation.test_outbound import B, Stage, message, stage
from tests.world import World, eventually

__all__ = ["stage"]

pytestmark = pytest.mark.anyio

DAY = 24 * 3600.0


async def waits_for(database: Database, server: ServerName) -> int:
    """How much data waits for the server."""
    return (await database.read(outgoing_edus.count_waiting)).get(server, 0)


async def has_failed(world: World, server: ServerName) -> None:
    async def look() -> Destination | None:
        return await world.container.database.read(destinations.find, server)

    await eventually(look, lambda row: row is not None and row.failures > 0)


@pytest.mark.timeout(60)  # It sends a great many.
@pytest.mark.behaviours("SS-EDU-04", "SS-EDU-05")
@pytest.mark.trust("C20", "F32", "R6")
async def test_changes_of_devices_for_a_server_that_is_down_are_as_many_as_users(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await join(bob, room_id, alice)
    others = [await a.user("alice", device_id=f"DEVICE{number}") for number in range(3)]
    for device in (alice, *others):
        await upload(device, device_keys=identity(device, device_key(device)))
    database = a.container.database

    async def shown() -> set[str]:
        return set((await query(bob, alice))["device_keys"].get(alice.user_id, {}))

    await eventually(shown, lambda devices: len(devices) == 4)
    await eventually(lambda: waits_for(database, ServerName("b.test")), lambda waiting: waiting == 0)
    network.cut("b.test")
    await alice.send(room_id, "nobody hears")
    await has_failed(a, ServerName("b.test"))
    path = f"/devices/{quote(alice.device_id)}"
    for number in range(25):
        assert (await alice.put(path, {"display_name": f"Name {number}"})).status_code == 200
    assert (await others[0].post("/logout", {})).status_code == 200
    assert (await alice.put(path, {"display_name": "The last"})).status_code == 200

    async def pass_time() -> int:
        network.clock.advance(61)
        return await waits_for(database, ServerName("b.test"))

    await eventually(pass_time, lambda waiting: waiting == 1)
    network.heal("b.test")
    network.clock.advance(DAY)
    await eventually(shown, lambda devices: len(devices) == 3)
    keys = (await query(bob, alice))["device_keys"][alice.user_id][alice.device_id]
    assert keys["unsigned"]["device_display_name"] == "The last"
    await eventually(lambda: waits_for(database, ServerName("b.test")), lambda waiting: waiting == 0)


@pytest.mark.behaviours("SS-TXN-03")
@pytest.mark.trust("C19", "F32", "R6")
async def test_messages_to_devices_wait_for_thirty_days_and_then_the_newest_of_each_user(stage: Stage) -> None:
    database = stage.world.container.database
    stage.b.failure = Unreachable("down")
    await stage.say("one")
    await stage.has_failed(B, 1)
    await database.write(outgoing_edus.add_many, [message(B, number, "@carol:a.test") for number in range(3)])
    await database.write(outgoing_edus.add_many, [message(B, number) for number in range(3, 10_053)])
    # Who is known to everybody is known to the sender when what came after it is.
    await stage.say("two")
    await eventually(lambda: _said(stage), lambda bodies: "two" in bodies)

    async def pass_time(seconds: float = 61) -> int:
        stage.network.clock.advance(seconds)
        return await waits_for(database, B)

    # Of changes of devices, the last one is enough: where they have become one, what waits has been looked at.
    for days in (1, 28):
        stage.network.clock.advance(days * DAY)
        changes = [OutgoingEdu(B, DEVICE_LIST, b"{}", UserId("@alice:a.test"))] * 3
        await database.write(outgoing_edus.add_many, changes)
        await stage.say("more")
        await eventually(pass_time, lambda waiting: waiting == 10_054)
    stage.network.clock.advance(2 * DAY)
    await eventually(pass_time, lambda waiting: waiting == 504)
    stage.b.failure = None
    stage.network.clock.advance(DAY)
    await eventually(pass_time, lambda waiting: waiting == 0)
    messages = [content["n"] for kind, content in stage.b.edus if kind == TO_DEVICE]
    assert messages == [0, 1, 2, *range(9_553, 10_053)]


@pytest.mark.behaviours("SS-TXN-03")
@pytest.mark.trust("C19", "R6")
async def test_who_takes_what_is_sent_loses_nothing_however_slowly(stage: Stage) -> None:
    database = stage.world.container.database
    stage.network.peers[B].awake.clear()
    await stage.say("one")
    await database.write(outgoing_edus.add_many, [message(B, number) for number in range(10_053)])
    await stage.say("two")
    await eventually(lambda: _said(stage), lambda bodies: "two" in bodies)

    async def counted() -> bool:
        total = await waits_for(database, B)
        return f"homeserver_federation_edus_waiting {total}.0" in (await stage.world.client.get("/metrics")).text

    # What waits is counted after what is done each minute, and each hour.
    for number, seconds in enumerate((61, 61, 3601, 61), 10_053):
        await database.write(outgoing_edus.add_many, [message(B, number)])
        stage.network.clock.advance(seconds)
        await eventually(counted, lambda found: found)
        assert await waits_for(database, B) == number + 1
    stage.network.peers[B].awake.set()
    await eventually(lambda: waits_for(database, B), lambda waiting: waiting == 0)
    assert [content["n"] for _, content in stage.b.edus] == list(range(10_057))


async def _said(stage: Stage) -> list[str]:
    return stage.c.bodies
