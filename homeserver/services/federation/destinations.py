"""How it goes with other servers, for people: what they lack, since when, why, and when they are tried again."""

from dataclasses import dataclass, field

from homeserver.errors import NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations
from homeserver.storage import destinations, outgoing, outgoing_edus, stream_rows
from homeserver.storage.destinations import Destination, Skipped
from homeserver.storage.engine import Database, ReadTx

_MOST = 1000
_SKIPPED = 20
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a server lacks; of more than a thousand events it is not said how many they are."""

    events: int = 0
    rooms: int = 0
    others: int = 0
    """Messages to devices, changes of device lists, and the like."""


@dataclass(frozen=True, slots=True)
class Report:
    """How it goes with a server."""

    row: Destination
    backlog: Backlog
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def name(self) -> ServerName:
        """The server's name."""
        return self.row.server_name

    def sentences(self, now: int) -> list[str]:
        """The same in words."""
        row, found = self.row, []
        if row.failures:
            since = row.failing_since_ts or row.last_attempt_ts or now
            tries = "once" if row.failures == 1 else f"{row.failures} times"
            found.append(f"It has not taken what is sent to it for {_span(now - since)}; it was tried {tries}.")
            found.append(f"The last time: {row.error}")
            if row.next_retry_ts is not None and row.next_retry_ts > now:
                ahead = _span(row.next_retry_ts - now)
                found.append(f"It is tried again in {ahead}, or as soon as it gives a sign of life.")
            else:
                found.append("It is tried again now.")
        if row.last_success_ts is None:
            found.append("It has never taken anything.")
        else:
            found.append(f"It took something {_span(now - row.last_success_ts)} ago.")
        found.append(self._lack())
        found.extend(
            f"What is at position {one.position} was left out {_span(now - one.skipped_ts)} ago, as it refuses it: "
            f"{one.error}"
            for one in self.skipped
        )
        return found

    def _lack(self) -> str:
        lack = self.backlog
        parts = []
        if lack.events:
            many = f"more than {_MOST}" if lack.events > _MOST else str(lack.events)
            parts.append(f"{many} event{_s(lack.events)} of {lack.rooms} room{_s(lack.rooms)}")
        if lack.others:
            parts.append(f"{lack.others} message{_s(lack.others)} to devices or change{_s(lack.others)} of devices")
        return f"It lacks {' and '.join(parts)}." if parts else "It lacks nothing."


class DestinationReports:
    """Tells how it goes with other servers."""

    def __init__(self, database: Database, clock: Clock, health: Destinations) -> None:
        self._database = database
        self._clock = clock
        self._health = health

    async def list(self) -> list[Report]:
        """All servers that were ever sent something, those that fail first."""
        found = await self._database.snapshot(_list)
        return sorted(found, key=lambda one: (one.row.failures == 0, one.name))

    async def find(self, server: ServerName) -> Report:
        """How it goes with one. Raises `NotFound`."""
        found = await self._database.snapshot(_find, server)
        if found is None:
            raise NotFound("Nothing was ever sent to a server of this name.")
        return found

    async def retry(self, server: ServerName) -> None:
        """Have the server tried now. Raises `NotFound`."""
        await self.find(server)
        self._health.wake(server)


def _list(tx: ReadTx) -> list[Report]:
    upto = stream_rows.current(tx)
    edus = outgoing_edus.count_waiting(tx)
    pending = outgoing.list_pending_servers(tx) | edus.keys()
    rows = {row.server_name: row for row in destinations.list_all(tx)}
    found = []
    for server in rows.keys() | pending:
        row = rows.get(server) or Destination(server)
        # Most lack nothing; to find out how much the others do takes a look into each of their rooms.
        lack = _backlog(tx, row, upto, edus.get(server, 0)) if server in pending else Backlog()
        found.append(Report(row, lack))
    return found


def _find(tx: ReadTx, server: ServerName) -> Report | None:
    row = destinations.find(tx, server)
    others = outgoing_edus.count_waiting(tx).get(server, 0)
    if row is None:
        if not others and server not in outgoing.list_pending_servers(tx):
            return None
        row = Destination(server)
    lack = _backlog(tx, row, stream_rows.current(tx), others)
    return Report(row, lack, destinations.list_skipped(tx, server, limit=_SKIPPED))


def _backlog(tx: ReadTx, row: Destination, upto: int, others: int) -> Backlog:
    newest = outgoing.list_newest_for(tx, row.server_name, after=row.delivered, upto=upto, limit=_MOST)
    if not newest:
        return Backlog(others=others)
    missed = outgoing.list_for(tx, row.server_name, after=row.delivered, upto=upto, limit=_MOST + 1)
    return Backlog(len(missed), len(newest), others)


def _span(milliseconds: int) -> str:
    """A time in words, to one unit."""
    seconds = max(0, milliseconds // 1000)
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit}{_s(seconds // length)}"
    return "less than a second"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
