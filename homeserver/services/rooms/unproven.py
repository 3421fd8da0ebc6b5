"""Events of rooms known in part that wait for a key by which they can be proven."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from homeserver.matrix.identifiers import EventId

_MOST_BYTES = 32 << 20
"""So much is held for all rooms together; what is more is fetched again."""


@dataclass(slots=True)
class _Room:
    count: int = 0
    size: int = 0
    held: dict[EventId, bytes] = field(default_factory=dict)


class Unproven:
    """Counts such events by room, and holds those for which there is space: they need not be fetched again."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._rooms: dict[int, _Room] = {}

    def add(self, room_nid: int, event_id: EventId, pdu: bytes) -> None:
        """Count an event, which was not counted, and hold it if there is space."""
        room = self._rooms.setdefault(room_nid, _Room())
        room.count += 1
        if self._size + len(pdu) <= self._most_bytes:
            room.held[event_id] = pdu
            room.size += len(pdu)
            self._size += len(pdu)

    def count(self, room_nid: int) -> int:
        """How many there are of a room, held or not."""
        return room.count if (room := self._rooms.get(room_nid)) is not None else 0

    def held(self, room_nid: int) -> Mapping[EventId, bytes]:
        """Those of a room that are held."""
        return room.held if (room := self._rooms.get(room_nid)) is not None else {}

    def forget(self, room_nid: int) -> None:
        """Let go of those of a room."""
        room = self._rooms.pop(room_nid, None)
        if room is not None:
            self._size -= room.size

    def keep_only(self, room_nids: Collection[int]) -> None:
        """Let go of those of all other rooms."""
        for room_nid in self._rooms.keys() - set(room_nids):
            self.forget(room_nid)
