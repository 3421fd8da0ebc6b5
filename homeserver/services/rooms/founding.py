"""Rooms that become known by their create event."""

from collections.abc import Sequence

import msgspec

from homeserver.errors import NotFound
from homeserver.kit.clock import Clock
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.checks import Checks
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.placement import Batch, NewEvent
from homeserver.services.rooms.verdicts import refusal
from homeserver.storage import events
from homeserver.storage.engine import Database


class Founding:
    """Begins rooms."""

    def __init__(self, database: Database, clock: Clock, writer: EventWriter, checks: Checks) -> None:
        self._database = database
        self._clock = clock
        self._writer = writer
        self._checks = checks

    async def begin(self, room_id: RoomId, pdus: Sequence[bytes]) -> HotRoom:
        """Begin a room by its create event. Raises `NotFound` if that is not among the events."""
        for pdu in pdus:
            version = _version_of_create(pdu)
            if version is None:
                continue
            [event] = await self._checks.check(room_id, ROOM_VERSIONS[version], [pdu])
            # An event of this id may be in another room.
            if isinstance(event, Event) and not refusal(event, []) and not await self._is_known(event):
                room = HotRoom(room_id, ROOM_VERSIONS[version])
                await self._writer.write(Batch(room, [NewEvent(event)], now=self._clock.now()))
                return room
        raise NotFound("This server does not know the room, and its create event is not here.")

    async def _is_known(self, event: Event) -> bool:
        return bool(await self._database.read(events.find_positions, [EventId(event.event_id)]))


def _version_of_create(pdu: bytes) -> str | None:
    """The room version, if these are the bytes of a create event of a version that is known."""
    try:
        value = msgspec.json.decode(pdu)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(value, dict) or value.get("type") != "m.room.create":
        return None
    content = value.get("content")
    version = content.get("room_version", "1") if isinstance(content, dict) else None
    return version if isinstance(version, str) and version in ROOM_VERSIONS else None
