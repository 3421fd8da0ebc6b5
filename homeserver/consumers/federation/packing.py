"""Makes the next transaction for a server: up to 50 events, and 100 pieces of data.

A transaction is written down before it is sent, and the same is sent again until the server answers 200. (One without
anything durable is not: it is forgotten with the process.)
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from homeserver.consumers.federation.contents import encode_edu
from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.lines import Line, Lines
from homeserver.consumers.federation.missed import list_missed
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.outbound.ephemeral import Ephemeral, EphemeralEdu
from homeserver.storage import outgoing_edus
from homeserver.storage.destinations import MOST_EDUS, MOST_PDUS, Parcel
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import StoredEdu


class Packing:
    """Makes transactions."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        ephemeral: Ephemeral,
        lines: Lines,
        ledger: Ledger,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._ephemeral = ephemeral
        self._lines = lines
        self._ledger = ledger

    async def pack(self, line: Line) -> Parcel | None:
        """The transaction that the server is to have next: the one that is written down, or a new one, if any."""
        if line.row.txn is not None:
            return line.row.txn
        async with line.packing:
            return await self._pack_new(line)

    async def _pack_new(self, line: Line) -> Parcel | None:
        now = self._clock.monotonic()
        pdus, upto = await self._next_pdus(line)
        edus = await self._next_edus(line, bool(pdus))
        ephemeral = self._next_ephemeral(line, bool(pdus), len(edus))
        is_all = not (line.is_behind or line.queue or line.has_edus or self._ephemeral.has(line.name))
        if not pdus and not edus and not ephemeral and line.is_greeted:
            self._rest(line, upto)
            return None
        parcel = Parcel(
            pdus=tuple(pdus),
            edus=tuple(edu.position for edu in edus),
            ephemeral=tuple(msgspec.Raw(encode_edu(edu)) for edu in ephemeral),
            upto=upto,
        )
        if line.waiting_since is None:
            line.waiting_since = now
        line.packed_all_at = now if is_all else None
        await self._begin(line, parcel, edus)
        return parcel

    async def _begin(self, line: Line, parcel: Parcel, edus: list[StoredEdu]) -> None:
        line.is_greeted = True
        line.tries = line.blamed = 0
        line.fetched = edus
        line.row = replace(line.row, txn_id=self._randomness.letters(20), txn=parcel)
        if parcel.pdus or parcel.edus:
            line.is_dirty = False
            await self._ledger.save(line.row)

    def _rest(self, line: Line, upto: int) -> None:
        """There is nothing for the server; write that down some time."""
        line.waiting_since = None
        if line.is_dirty:
            line.is_dirty = False
            if upto > line.row.delivered:
                line.row = replace(line.row, delivered=upto)
            self._ledger.note_later(line.row)

    async def _next_pdus(self, line: Line) -> tuple[Sequence[int], int]:
        """The next events, and up to where all are delivered with them."""
        at_most = line.row.at_most
        if line.is_behind:
            return await self._look_up(line, at_most)
        pdus = [line.queue.popleft() for _ in range(min(at_most, len(line.queue)))]
        return pdus, pdus[-1] if pdus and line.queue else self._lines.tail

    async def _look_up(self, line: Line, at_most: int) -> tuple[Sequence[int], int]:
        upto = self._lines.tail
        line.is_behind = False  # What is new from here on comes to the queue.
        line.queue.clear()
        found, is_all = await self._database.snapshot(
            list_missed, line.name, after=line.row.delivered, upto=upto, at_most=at_most
        )
        pdus, rest = found[:at_most], found[at_most:]
        if not is_all or line.is_behind:
            line.fall_behind()
        else:
            line.queue.extendleft(reversed(rest))
            if not rest:
                line.is_dirty = True
                return pdus, upto
        return pdus, pdus[-1] if pdus else line.row.delivered

    async def _next_edus(self, line: Line, has_pdus: bool) -> list[StoredEdu]:
        at_most = line.row.at_most
        # While it is being found out what a server refuses, events and data go separately.
        if not line.has_edus or (has_pdus and at_most < MOST_PDUS):
            return []
        limit = min(MOST_EDUS, 2 * at_most) if at_most > 1 else 1
        line.has_edus = False
        found = await self._database.read(outgoing_edus.list_for, line.name, after=line.edus_after, limit=limit + 1)
        if len(found) > limit:
            line.has_edus = True
        return found[:limit]

    def _next_ephemeral(self, line: Line, has_pdus: bool, edus: int) -> list[EphemeralEdu]:
        if line.row.at_most < MOST_PDUS and (has_pdus or edus):
            return []
        return self._ephemeral.take(line.name, MOST_EDUS - edus)
