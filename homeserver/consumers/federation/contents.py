"""What is in a transaction, which is written down as positions alone."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from homeserver.consumers.federation.recipients import Recipient
from homeserver.kit.caching import Lru
from homeserver.outbound.ephemeral import EphemeralEdu
from homeserver.storage import events, outgoing_edus
from homeserver.storage.destinations import Parcel
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import StoredEdu

_RECENT = 1000


class Contents:
    """Reads events and data; the newest events are in memory, as most servers are to have them now."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: Lru[int, bytes] = Lru(_RECENT)

    def keep(self, pdus: Mapping[int, bytes]) -> None:
        """These are the newest events, by position."""
        for position, pdu in pdus.items():
            self._recent.put(position, pdu)

    def forget(self, redacted: Iterable[int]) -> None:
        """What these events said is not to be sent any more."""
        for position in redacted:
            self._recent.drop(position)

    async def pdus(self, parcel: Parcel) -> list[bytes]:
        """The events of a transaction, without those that were purged in the meantime."""
        found = {position: pdu for position in parcel.pdus if (pdu := self._recent.get(position)) is not None}
        missing = [position for position in parcel.pdus if position not in found]
        if missing:
            stored = await self._database.read(events.find_many, missing)
            found.update((position, event.pdu) for position, event in stored.items())
        return [found[position] for position in parcel.pdus if position in found]

    async def edus(self, recipient: Recipient, parcel: Parcel) -> list[bytes]:
        """The data of a transaction, as it is to be sent."""
        stored = [encode_edu(edu) for edu in await self._stored_edus(recipient, parcel.edus)]
        return stored + [bytes(edu) for edu in parcel.ephemeral]

    async def _stored_edus(self, recipient: Recipient, positions: Sequence[int]) -> list[StoredEdu]:
        fetched = recipient.attempt.take_fetched()
        if not positions or fetched is not None:
            return fetched or []
        return await self._database.read(outgoing_edus.find_many, recipient.name, positions)


def encode_edu(edu: StoredEdu | EphemeralEdu) -> bytes:
    """Data as it is to be sent."""
    return b'{"edu_type":' + msgspec.json.encode(edu.edu_type) + b',"content":' + edu.content + b"}"
