"""The ids of events that are bytes yet: how one is made of the other, the version of the room says."""

import asyncio
from collections.abc import Sequence

from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, MalformedEvent, receive_events
from homeserver.matrix.identifiers import EventId
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.services.rooms.hot import HotRoom

_SMALL = 20_000
"""Of more bytes, what their ids may be is found out in a thread."""


def _what_makes_ids(version: RoomVersion) -> tuple[object, ...]:
    """What of a version has a say in which events there are, and in their ids."""
    return (
        version.event_id_format,
        version.references_are_pairs,
        version.room_ids_are_hashes,
        version.strict_canonical_json,
        version.max_depth,
        version.redaction_set,
    )


_KINDS_OF_IDS = tuple({_what_makes_ids(version): name for name, version in ROOM_VERSIONS.items()}.values())
"""Room versions of which no two make ids in the same way."""


def id_of(room: HotRoom, pdu: bytes) -> EventId | None:
    """The id of an event of the room; None if it is none."""
    try:
        return EventId(Event.parse(pdu, room.version.identifier).event_id)
    except (CanonicalJsonError, MalformedEvent):
        return None


async def possible_ids(pdus: Sequence[bytes]) -> set[EventId]:
    """The ids that events of a room of which nothing is known may have: what these are, its room's version says."""
    if sum(map(len, pdus)) <= _SMALL:
        return _possible_ids(pdus)
    return await asyncio.to_thread(_possible_ids, pdus)


def _possible_ids(pdus: Sequence[bytes]) -> set[EventId]:
    received = (one for version in _KINDS_OF_IDS for one in receive_events(list(pdus), version))
    return {EventId(one[0].event_id) for one in received if not isinstance(one, str)}
