"""Writes down how it goes with other servers: what many of them do at once goes into one commit."""

import asyncio
from collections.abc import Iterable, Sequence

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.destinations import Destination, Skipped
from homeserver.storage.engine import Database, WriteTx

AT_A_TIME = 10
"""So many go on in one turn of the event loop: their transactions are signed, which takes some time for each."""


class Ledger:
    """What is to be written down, and who waits for that."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[ServerName, Destination] = {}
        self._later: dict[ServerName, Destination] = {}
        self._delivered: list[tuple[ServerName, int]] = []
        self._skipped: list[Skipped] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()

    def note(self, row: Destination, edus: Iterable[int] = (), skipped: Sequence[Skipped] = ()) -> None:
        """Write this down soon; the data at the positions `edus` was delivered."""
        self._rows[row.server_name] = row
        self._later.pop(row.server_name, None)
        self._delivered.extend((row.server_name, position) for position in edus)
        self._skipped.extend(skipped)
        self._changed.set()

    def note_later(self, row: Destination) -> None:
        """Write this down at the next `flush`, unless there is something newer by then.

        It is that something was delivered: if that is forgotten, the same transaction is sent again.
        """
        self._later[row.server_name] = row

    def flush(self) -> None:
        """Write down soon what was to be written down later."""
        if self._later:
            self._rows |= self._later
            self._later.clear()
            self._changed.set()

    async def save(self, row: Destination) -> None:
        """Write this down, and wait until it is."""
        self.note(row)
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    async def run(self) -> None:
        """Write until cancelled; then what is left, once more."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._write()
        finally:
            self.flush()
            await self._write()

    async def _write(self) -> None:
        rows, self._rows = self._rows, {}
        delivered, self._delivered = self._delivered, []
        skipped, self._skipped = self._skipped, []
        waiting, self._waiting = self._waiting, []
        if rows:
            await self._database.write(_save, list(rows.values()), delivered, skipped)
        for index, done in enumerate(waiting, 1):
            if not done.done():
                done.set_result(None)
            if index % AT_A_TIME == 0:
                await asyncio.sleep(0)


def _save(
    tx: WriteTx, rows: Sequence[Destination], delivered: Sequence[tuple[ServerName, int]], skipped: Sequence[Skipped]
) -> None:
    destinations.save_many(tx, rows)
    if delivered:
        outgoing_edus.remove_many(tx, delivered)
    if skipped:
        destinations.skip_many(tx, skipped)
