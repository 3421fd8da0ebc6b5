"""The work that follows what has happened: only a server does it."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from homeserver.app.parts.foundation import Foundation
from homeserver.app.parts.graph import RoomGraph
from homeserver.app.parts.live import Live
from homeserver.app.parts.outside import Outside
from homeserver.app.parts.people import People
from homeserver.app.parts.rooms import Rooms
from homeserver.app.parts.servers import Servers
from homeserver.consumers.device_lists import Introductions, Resyncs
from homeserver.consumers.effects import RoomEffects
from homeserver.consumers.federation.sender import FederationSender
from homeserver.consumers.guests import GuestAccess
from homeserver.consumers.housekeeping import Housekeeping, Purging, Strangers
from homeserver.consumers.loop import Work
from homeserver.consumers.partial_rooms import RoomCompletion
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report


def list_works(
    foundation: Foundation,
    people: People,
    outside: Outside,
    graph: RoomGraph,
    rooms: Rooms,
    live: Live,
    servers: Servers,
    stack: AsyncExitStack,
) -> Sequence[Work]:
    """All consumers of this process, each a function that runs until it is cancelled."""
    config, database, clock, notifier = foundation.config, foundation.database, foundation.clock, foundation.notifier
    housekeeping = Housekeeping(database, clock, live.presence, people.sessions)
    # The database may be away when the server ends: what is left to tidy then is left for the next start.
    stack.push_async_callback(lambda: contained(housekeeping.tidy(), report))
    stack.callback(notifier.wake_all)
    found: list[Work] = [
        housekeeping.run,
        RoomEffects(database, clock, notifier, rooms.members, live.presence).run,
        GuestAccess(notifier, rooms.guests).run,
        Purging(notifier, rooms.purge).run,
        Strangers(database, clock).run,
        servers.room_lines.run,
        RoomCompletion(clock, notifier, graph.completion, graph.gaps).run,
        Introductions(database, notifier).run,
        Resyncs(clock, notifier, servers.device_lists).run,
    ]
    if database.is_postgres:
        found.append(partial(foundation.occupancy.watch, database))
    if config.federation.enabled:
        sender = FederationSender(
            database,
            clock,
            foundation.randomness,
            notifier,
            outside.federation,
            outside.destinations,
            outside.ephemeral,
            foundation.metrics,
            config.server_name,
            config.federation.connections,
        )
        found.append(sender.run)
    return found
