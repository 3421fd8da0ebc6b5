"""Writes down how it goes with other servers: what many of them do at once goes into one commit.

While the database is away it waits, and whoever has to know that something is written waits with it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from homeserver.errors import Unavailable
from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.matrix.identifiers import ServerName
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.destinations import Destination, Skipped
from homeserver.storage.engine import Database, WriteTx

AT_A_TIME = 10
"""So many go on in one turn of the event loop: their transactions are signed, which takes some time for each."""
_PAUSE_S = 2.0


@dataclass(slots=True)
class _Entry:
    """What is to be written of a server, and who waits for that."""

    row: Destination
    delivered: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def follow(self, earlier: "_Entry") -> None:
        """Say as well what could not be written before."""
        self.delivered[:0] = earlier.delivered
        self.skipped[:0] = earlier.skipped
        self.waiting[:0] = earlier.waiting


class Ledger:
    """What is to be written down, and who waits for that."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._entries: dict[ServerName, _Entry] = {}
        self._later: dict[ServerName, Destination] = {}
        self._changed = asyncio.Event()

    def note(self, row: Destination, edus: Iterable[int] = (), skipped: Sequence[Skipped] = ()) -> None:
        """Write this down soon; the data at the positions `edus` was delivered."""
        self._later.pop(row.server_name, None)
        entry = self._entry(row)
        entry.delivered.extend(edus)
        entry.skipped.extend(skipped)

    def note_later(self, row: Destination) -> None:
        """Write this down at the next `flush`, unless there is something newer by then.

        It is that something was delivered: if that is forgotten, the same transaction is sent again.
        """
        self._later[row.server_name] = row

    def flush(self) -> None:
        """Write down soon what was to be written down later."""
        for row in self._later.values():
            self._entry(row)
        self._later.clear()

    async def save(self, row: Destination) -> None:
        """Write this down, and wait until it is."""
        self.note(row)
        done = asyncio.get_running_loop().create_future()
        self._entries[row.server_name].waiting.append(done)
        await done

    async def run(self) -> None:
        """Write until cancelled; then what is left, once more."""
        try:
            while True:
                await self._changed.wait()
                if not await self._write_all():
                    await self._clock.sleep(_PAUSE_S)
        finally:
            self.flush()
            await self._write_all()

    def _entry(self, row: Destination) -> _Entry:
        """The server's, which is to say this."""
        entry = self._entries.setdefault(row.server_name, _Entry(row))
        entry.row = row
        self._changed.set()
        return entry

    async def _write_all(self) -> bool:
        """Write what there is; whether the database was there."""
        entries, self._entries = self._entries, {}
        self._changed.clear()
        return not entries or await self._write(list(entries.values()))

    async def _write(self, entries: Sequence[_Entry]) -> bool:
        """Write these, in smaller parts if one of them cannot be written; whether the database was there."""
        [error] = await asyncio.gather(self._database.write(_save, entries), return_exceptions=True)
        if isinstance(error, Unavailable):
            self._put_back(entries)
            return False
        if error is not None and len(entries) > 1:
            half = len(entries) // 2
            return all([await self._write(part) for part in (entries[:half], entries[half:])])
        if error is not None:
            report(error)  # It is that server's misfortune alone.
        await self._settle(entries, error)
        return True

    def _put_back(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            newer = self._entries.setdefault(entry.row.server_name, entry)
            if newer is not entry:
                newer.follow(entry)
        self._changed.set()

    @staticmethod
    async def _settle(entries: Iterable[_Entry], error: BaseException | None) -> None:
        waiting = [done for entry in entries for done in entry.waiting if not done.done()]
        for index, done in enumerate(waiting, 1):
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
            if index % AT_A_TIME == 0:
                await asyncio.sleep(0)


def _save(tx: WriteTx, entries: Sequence[_Entry]) -> None:
    destinations.save_many(tx, [entry.row for entry in entries])
    delivered = [(entry.row.server_name, position) for entry in entries for position in entry.delivered]
    if delivered:
        outgoing_edus.remove_many(tx, delivered)
    skipped = [one for entry in entries for one in entry.skipped]
    if skipped:
        destinations.skip_many(tx, skipped)
