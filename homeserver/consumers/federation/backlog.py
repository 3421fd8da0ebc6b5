"""Bounds the data that waits for servers that fail: what is superseded goes.

Of messages to devices, the oldest go, once a server has been down for so long that it is given up; until then no more
are taken of a user than are kept (`services/users/to_device`). This is looked after from time to time; whoever takes
what is sent, however slowly, loses nothing.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

import structlog

from homeserver.consumers.federation.recipients import Recipient, Recipients
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations
from homeserver.storage import outgoing_edus
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.tables import chunks

_MOST_MESSAGES = 500
"""So many pieces of data with messages to devices of a server that is given up wait, of each local user."""
_AT_ONCE = 10
_MOST_ROWS = 5000
"""So many go at once: nobody else writes meanwhile."""
_EVERY_S = 60.0
_ALL_EVERY_S = 3600.0

log = structlog.get_logger()


class Backlog:
    """What waits for servers."""

    def __init__(
        self, database: Database, clock: Clock, metrics: Metrics, health: Destinations, recipients: Recipients
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._recipients = recipients

    async def run(self) -> None:
        """Work until cancelled: once a minute for servers for which more has come, once an hour for all that fail."""
        seen_all = self._clock.monotonic()
        while True:
            await contained(self._count(), report)
            await self._clock.sleep(_EVERY_S)
            waiting = [
                recipient
                for recipient in self._recipients
                if recipient.pending.has_edus and self._is_failing(recipient)
            ]
            if self._clock.monotonic() - seen_all < _ALL_EVERY_S:
                waiting = [recipient for recipient in waiting if recipient.pending.has_grown]
            else:
                seen_all = self._clock.monotonic()
            for some in chunks(waiting, _AT_ONCE):
                if not await contained(self._bound_all(some), report):
                    for recipient in some:
                        recipient.pending.leave_unbounded()

    async def _count(self) -> None:
        self._metrics.edus_waiting.set(await self._database.read(outgoing_edus.count_all))

    async def _bound_all(self, recipients: Sequence[Recipient]) -> None:
        while await self._bound(recipients):
            pass

    async def _bound(self, recipients: Sequence[Recipient]) -> bool:
        """Remove some of what is too much for the servers; whether there may be more."""
        async with AsyncExitStack() as stack:
            for recipient in recipients:
                await stack.enter_async_context(recipient.packing)
            # One that was waited for may have taken something in the meantime.
            recipients = [recipient for recipient in recipients if self._is_failing(recipient)]
            if not recipients:
                return False
            for recipient in recipients:
                recipient.pending.begin_bounding()
            under_way = [
                position
                for recipient in recipients
                if recipient.progress.row.txn is not None
                for position in recipient.progress.row.txn.edus
            ]
            servers = [recipient.name for recipient in recipients]
            given_up = [server for server in servers if self._health.is_given_up(server)]
            superseded, dropped = await self._database.write(_bound, servers, given_up, under_way)
        self._metrics.federation_edus_dropped.labels("superseded").inc(superseded)
        self._metrics.federation_edus_dropped.labels("too many").inc(dropped.total())
        for server, count in dropped.items():
            log.warning("messages to devices of a server are dropped", destination=server, messages=count)
        return superseded + dropped.total() >= _MOST_ROWS

    def _is_failing(self, recipient: Recipient) -> bool:
        return self._health.find(recipient.name) is not None


def _bound(
    tx: WriteTx, servers: Sequence[ServerName], given_up: Sequence[ServerName], under_way: Collection[int]
) -> tuple[int, Counter[ServerName]]:
    superseded = outgoing_edus.supersede(tx, servers, under_way=under_way, limit=_MOST_ROWS)
    if not given_up:
        return superseded, Counter()
    dropped = outgoing_edus.drop_oldest(tx, given_up, under_way=under_way, kept=_MOST_MESSAGES, limit=_MOST_ROWS)
    return superseded, dropped
