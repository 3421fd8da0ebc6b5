"""Goes on where another process of this server ended, or died."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from homeserver.consumers.federation.outcomes import DOWN_AFTER
from homeserver.consumers.federation.recipients import Recipients
from homeserver.consumers.federation.turns import Turns
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations, Health
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.storage import destinations, outgoing, outgoing_edus, room_servers, stream_rows
from homeserver.storage.destinations import Destination
from homeserver.storage.engine import ReadTx

_AWAY_MS = 60_000
_GREETING_S = 0.02


@dataclass(frozen=True, slots=True)
class Found:
    """What there was when this server was started."""

    upto: int
    rows: Sequence[Destination]
    pending: set[ServerName]
    neighbours: set[ServerName]


def read(tx: ReadTx) -> Found:
    """What there is."""
    return Found(
        stream_rows.current(tx),
        destinations.list_all(tx),
        outgoing.list_pending_servers(tx) | outgoing_edus.list_destinations(tx),
        room_servers.list_neighbours(tx),
    )


class Start:
    """Takes up what was written down."""

    def __init__(
        self, clock: Clock, recipients: Recipients, turns: Turns, health: Destinations, ephemeral: Ephemeral
    ) -> None:
        self._clock = clock
        self._recipients = recipients
        self._turns = turns
        self._health = health
        self._ephemeral = ephemeral

    def take_up(self, found: Found) -> None:
        """Begin with this."""
        self._recipients.tail = found.upto
        self._health.forget_all()
        now = self._clock.now()
        for row in found.rows:
            self._add(row, now)
        for server in found.pending - {self._recipients.own}:
            recipient = self._recipients.find(server) or self._recipients.add(Destination(server))
            recipient.pending.fall_behind()
            recipient.pending.add_edus()
        newest = max((row.last_success_ts or 0 for row in found.rows), default=0)
        if newest and now - newest > _AWAY_MS:
            self._greet(found.neighbours)
        for recipient in list(self._recipients):
            self._turns.wake(recipient)

    def _add(self, row: Destination, now: int) -> None:
        recipient = self._recipients.add(row)
        if row.failures or row.txn is not None:
            recipient.pending.fall_behind()
        if row.failures:
            since = row.failing_since_ts or now
            attempt_ts = row.last_attempt_ts or since
            # The clock may have been wrong when that was written down; how long the pause was to be, is right.
            pause = max(0, (row.next_retry_ts or now) - attempt_ts)
            retry_ts = min(row.next_retry_ts or now, now + pause)
            health = Health(row.failures, min(since, now), min(attempt_ts, now), retry_ts, row.error)
            self._health.restore(row.server_name, health)
            self._turns.leave_alone(recipient, health)
        if row.failures >= DOWN_AFTER:
            self._ephemeral.forget(row.server_name)

    def _greet(self, servers: Iterable[ServerName]) -> None:
        """Let servers know that this one is there again: those that have given it up will try."""
        due = self._clock.monotonic()
        for server in servers:
            recipient = self._recipients.ensure(server)
            if not self._recipients.has_work(recipient) and self._health.find(server) is None:
                recipient.pending.owe_greeting()
                due += _GREETING_S
                self._turns.set_timer(recipient, due)
