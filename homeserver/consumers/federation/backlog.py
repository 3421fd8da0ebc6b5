"""Bounds the data that waits for servers: what is superseded goes, and of messages to devices the oldest.

This happens from time to time, to what waits for longer than that; whoever takes what is sent loses nothing.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

import structlog

from homeserver.consumers.federation.lines import Line, Lines
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations
from homeserver.storage import outgoing_edus
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.tables import chunks

MOST_MESSAGES = 10_000
"""So many messages to devices of one server wait, of each local user."""
MOST_FOR_DEAD = 500
"""So many when the server has been down for long."""
_LONG_MS = 30 * 24 * 60 * 60 * 1000
_AT_ONCE = 50
_EVERY_S = 60.0
_ALL_EVERY_S = 3600.0

log = structlog.get_logger()


class Backlog:
    """What waits for servers."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics, health: Destinations, lines: Lines) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._lines = lines

    async def run(self) -> None:
        """Work until cancelled: once a minute for servers for which more has come, once an hour for all."""
        seen_all = self._clock.monotonic()
        while True:
            self._metrics.edus_waiting.set(await self._database.read(outgoing_edus.count_all))
            await self._clock.sleep(_EVERY_S)
            waiting = [line for line in self._lines if line.has_edus]
            if self._clock.monotonic() - seen_all < _ALL_EVERY_S:
                waiting = [line for line in waiting if line.has_grown]
            else:
                seen_all = self._clock.monotonic()
            for some in chunks(waiting, _AT_ONCE):
                await self._bound(some)

    async def _bound(self, lines: Sequence[Line]) -> None:
        async with AsyncExitStack() as stack:
            for line in lines:
                await stack.enter_async_context(line.packing)
                line.has_grown = False
            under_way = [position for line in lines if line.row.txn is not None for position in line.row.txn.edus]
            servers = [line.name for line in lines]
            dead = [line.name for line in lines if self._is_dead(line)]
            superseded, dropped = await self._database.write(_bound, servers, dead, under_way)
        self._metrics.federation_edus_dropped.labels("superseded").inc(superseded)
        self._metrics.federation_edus_dropped.labels("too many").inc(dropped.total())
        for server, count in dropped.items():
            log.warning("messages to devices of a server are dropped", destination=server, messages=count)

    def _is_dead(self, line: Line) -> bool:
        health = self._health.find(line.name)
        return health is not None and self._clock.now() - health.since_ts > _LONG_MS


def _bound(
    tx: WriteTx, servers: Sequence[ServerName], dead: Sequence[ServerName], under_way: Collection[int]
) -> tuple[int, Counter[ServerName]]:
    superseded = outgoing_edus.supersede(tx, servers, under_way=under_way)
    dropped = outgoing_edus.drop_oldest(tx, servers, under_way=under_way, kept=MOST_MESSAGES)
    if dead:
        dropped += outgoing_edus.drop_oldest(tx, dead, under_way=under_way, kept=MOST_FOR_DEAD)
    return superseded, dropped
