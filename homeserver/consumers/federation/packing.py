"""Makes the next transaction for a server: up to 50 events, and 100 pieces of data.

A transaction is written down before it is sent, and the same is sent again until the server answers 200. (One without
anything durable is not: it is forgotten with the process.)
"""

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from homeserver.consumers.federation.contents import encode_edu
from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.missed import list_missed
from homeserver.consumers.federation.recipients import Attempt, Recipient, Recipients
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.outbound.ephemeral import Ephemeral, EphemeralEdu
from homeserver.storage import outgoing_edus
from homeserver.storage.destinations import MOST_EDUS, MOST_PDUS, Parcel
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import StoredEdu

_LARGEST = 4 << 20
"""So many bytes of data are sent together: what is much more, some servers do not take."""


class Packing:
    """Makes transactions."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        ephemeral: Ephemeral,
        recipients: Recipients,
        ledger: Ledger,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._ephemeral = ephemeral
        self._recipients = recipients
        self._ledger = ledger

    async def pack(self, recipient: Recipient) -> Parcel | None:
        """The transaction that the server is to have next: the one that is written down, or a new one, if any."""
        if recipient.progress.row.txn is not None:
            return recipient.progress.row.txn
        async with recipient.packing:
            return await self._pack_new(recipient)

    async def _pack_new(self, recipient: Recipient) -> Parcel | None:
        now = self._clock.monotonic()
        pdus, upto = await self._next_pdus(recipient)
        edus = await self._next_edus(recipient, bool(pdus))
        ephemeral = self._next_ephemeral(recipient, bool(pdus), len(edus))
        is_all = not self._recipients.has_more(recipient)
        if not pdus and not edus and not ephemeral and recipient.pending.is_greeted:
            self._rest(recipient, upto)
            return None
        parcel = Parcel(
            pdus=tuple(pdus),
            edus=tuple(edu.position for edu in edus),
            ephemeral=tuple(msgspec.Raw(encode_edu(edu)) for edu in ephemeral),
            upto=upto,
        )
        recipient.age.pack(now, is_all=is_all)
        await self._begin(recipient, parcel, edus)
        return parcel

    async def _begin(self, recipient: Recipient, parcel: Parcel, edus: list[StoredEdu]) -> None:
        recipient.pending.greet()
        recipient.attempt = Attempt(edus)
        recipient.progress.begin(self._randomness.letters(20), parcel)
        if parcel.is_durable:
            await self._ledger.save(recipient.progress.row)

    def _rest(self, recipient: Recipient, upto: int) -> None:
        """There is nothing for the server; write that down some time."""
        recipient.age.end()
        if recipient.progress.rest(upto):
            self._ledger.note_later(recipient.progress.row)

    async def _next_pdus(self, recipient: Recipient) -> tuple[Sequence[int], int]:
        """The next events, and up to where all are delivered with them."""
        at_most = recipient.progress.row.at_most
        if recipient.pending.is_behind:
            return await self._look_up(recipient, at_most)
        pdus = recipient.pending.take_events(at_most)
        return pdus, pdus[-1] if pdus and recipient.pending.queue else self._recipients.tail

    async def _look_up(self, recipient: Recipient, at_most: int) -> tuple[Sequence[int], int]:
        upto = self._recipients.tail
        recipient.pending.begin_look_up()
        found, is_all = await self._database.snapshot(
            list_missed, recipient.name, after=recipient.progress.row.delivered, upto=upto, at_most=at_most
        )
        pdus, rest = found[:at_most], found[at_most:]
        if recipient.pending.end_look_up(rest, is_all=is_all) and not rest:
            recipient.progress.catch_up()
            return pdus, upto
        return pdus, pdus[-1] if pdus else recipient.progress.row.delivered

    async def _next_edus(self, recipient: Recipient, has_pdus: bool) -> list[StoredEdu]:
        at_most = recipient.progress.row.at_most
        # While it is being found out what a server refuses, events and data go separately.
        if not recipient.pending.has_edus or (has_pdus and at_most < MOST_PDUS):
            return []
        limit = min(MOST_EDUS, 2 * at_most) if at_most > 1 else 1
        after = recipient.pending.begin_edus()
        found = await self._database.read(outgoing_edus.list_for, recipient.name, after=after, limit=limit + 1)
        fitting = _fitting(found[:limit])
        if len(found) > len(fitting):
            recipient.pending.leave_edus()
        return fitting

    def _next_ephemeral(self, recipient: Recipient, has_pdus: bool, edus: int) -> list[EphemeralEdu]:
        if recipient.progress.row.at_most < MOST_PDUS and (has_pdus or edus):
            return []
        return self._ephemeral.take(recipient.name, MOST_EDUS - edus)


def _fitting(edus: Sequence[StoredEdu]) -> list[StoredEdu]:
    """The first of these that are not too large together; one alone always fits."""
    sizes = accumulate(len(edu.content) for edu in edus)
    return [edu for index, (edu, size) in enumerate(zip(edus, sizes, strict=True)) if not index or size <= _LARGEST]
