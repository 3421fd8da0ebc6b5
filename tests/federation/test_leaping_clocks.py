"""The wall clock was wrong for a while, and is put right: what was to wait for minutes does not wait for a year."""

import pytest

from homeserver.errors import Unreachable
from homeserver.outbound.transport import Reply
from tests.federation.network import Network, Seen
from tests.federation.test_gaps import V1, Source, searches, talk
from tests.federation.test_outbound import BOB, SEND, B
from tests.federation.test_outbound import Stage as Sending
from tests.federation.test_outbound import stage as sending
from tests.federation.test_send import Stage
from tests.services.rooms.test_branches import Scene
from tests.world import eventually, until

__all__ = ["sending"]

pytestmark = pytest.mark.anyio

YEAR_MS = 365 * 24 * 3_600_000


@pytest.mark.trust("F35")
async def test_a_server_that_failed_then_is_tried_soon(sending: Sending) -> None:
    clock = sending.network.clock
    clock.time += YEAR_MS
    sending.b.failure = Unreachable("down")
    await sending.say("one")
    await sending.has_failed(B, 1)
    clock.time -= YEAR_MS
    await sending.restart()
    sending.b.failure = None
    clock.advance(10)
    await until(lambda: sending.b.bodies == ["one"])


@pytest.mark.trust("F35")
async def test_what_was_searched_for_in_vain_then_is_searched_for_soon(network: Network) -> None:
    world = await network.server("a.test")
    alice = await world.user("alice")
    scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
    peer = network.peer(B)
    peer.on("PUT", SEND, lambda seen: {"pdus": {}})
    await scene.join(BOB)
    stage = Stage(network, scene, peer)
    graph = await stage.graph()
    said = talk(graph, 3)
    leaps: list[Seen] = []

    def fail(seen: Seen) -> Reply:
        if not leaps:
            network.clock.time += YEAR_MS
        leaps.append(seen)
        return Reply(500, {}, b"")

    async def look_in_vain() -> int:
        network.clock.advance(1)
        return await searches(stage, "left")

    peer.on("POST", f"{V1}/get_missing_events", fail)
    await peer.send("a.test", "1", said[-1].pdu)
    # What server b has delivered was looked for, and what waits at all.
    await eventually(look_in_vain, lambda count: count >= 5)
    network.clock.time -= YEAR_MS
    Source(peer, graph)
    network.clock.advance(61)

    async def look() -> list[str]:
        network.clock.advance(1)
        return await scene.bodies()

    await eventually(look, lambda bodies: bodies == ["0", "1", "2"])
