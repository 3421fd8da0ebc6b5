"""Every long-lived object, built part by part in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation, open_foundation
from homeserver.app.parts.graph import RoomGraph, build_graph
from homeserver.app.parts.live import Live, build_live
from homeserver.app.parts.outside import Outside, open_outside
from homeserver.app.parts.people import People, build_people
from homeserver.app.parts.rooms import Rooms, build_rooms
from homeserver.app.parts.servers import Servers, build_servers
from homeserver.app.parts.work import list_works
from homeserver.config.model import Config
from homeserver.consumers.loop import running
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.outbound.transport import Transport


@dataclass(frozen=True)
class Container(Servers, Live, Rooms, RoomGraph, Outside, People, Foundation):
    """All parts as one: what handlers may ask for, by type."""


@asynccontextmanager
async def build(
    config: Config,
    *,
    clock: Clock,
    randomness: Randomness,
    metrics: Metrics,
    is_server: bool = True,
    transport: Transport | None = None,
) -> AsyncIterator[Container]:
    """Open everything; what was opened is closed when the block ends.

    Only a server does the work that follows what has happened; a command, which may run beside one, does its task.
    """
    async with AsyncExitStack() as stack:
        crash.arm(config.crash_point)
        foundation = await open_foundation(config, clock, randomness, metrics, stack, is_server=is_server)
        people = build_people(foundation, stack)
        outside = await open_outside(foundation, transport, stack)
        graph = build_graph(foundation, outside, stack)
        rooms = build_rooms(foundation, outside, graph)
        live = build_live(foundation, people, outside, graph, stack)
        servers = build_servers(foundation, people, outside, graph, rooms, live, stack)
        works = list_works(foundation, people, outside, graph, rooms, live, servers, stack)
        if is_server:
            await stack.enter_async_context(running(works, clock))
        parts = (foundation, people, outside, graph, rooms, live, servers)
        yield Container(**{name: field for part in parts for name, field in vars(part).items()})
