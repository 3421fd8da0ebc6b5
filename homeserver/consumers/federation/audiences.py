"""Who is to have which event: the servers that were in the room when it happened."""

from collections.abc import Iterable, Sequence

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import room_servers
from homeserver.storage.engine import ReadTx
from homeserver.storage.outgoing import OutgoingEvent
from homeserver.storage.room_servers import Stay

_MOST_STAYS = 200_000


class _Room:
    """Where servers were from some position on."""

    def __init__(self, stays: Sequence[Stay], upto: int) -> None:
        self.stays = stays
        self.known_upto = upto
        self._settled = max((max(stay.since, stay.until or 0) for stay in stays), default=0)
        self._now = frozenset(stay.server_name for stay in stays if stay.until is None)

    def at(self, position: int) -> frozenset[ServerName]:
        if position > self._settled:
            return self._now
        return frozenset(
            stay.server_name
            for stay in self.stays
            if stay.since < position and (stay.until is None or position <= stay.until)
        )


class Audiences:
    """Follows the log: events are asked about in the order of their positions."""

    def __init__(self) -> None:
        self._rooms: dict[int, _Room] = {}
        self._size = 0

    def find(
        self, tx: ReadTx, events: Sequence[OutgoingEvent], *, after: int, upto: int
    ) -> list[frozenset[ServerName]]:
        """For each of these events, which lie in (after, upto], the servers that are to have it."""
        self._refresh(tx, {event.room_nid for event in events}, after, upto)
        found = []
        for event in events:
            audience = self._rooms[event.room_nid].at(event.position)
            if event.also_to is not None:
                audience |= {event.also_to}
            if event.except_for is not None:
                audience -= {event.except_for}
            found.append(audience)
        return found

    def _refresh(self, tx: ReadTx, room_nids: set[int], after: int, upto: int) -> None:
        known = room_nids & self._rooms.keys()
        changed: set[int] = set()
        if known:
            since = min(self._rooms[nid].known_upto for nid in known)
            changed = room_servers.list_changed(tx, known, after=since)
        self._forget(changed)
        if self._size > _MOST_STAYS:
            self._forget(list(self._rooms))
        wanted = room_nids - self._rooms.keys()
        stays = room_servers.list_stays(tx, wanted, after=after) if wanted else {}
        for nid in wanted:
            self._rooms[nid] = _Room(stays.get(nid, []), upto)
            self._size += len(self._rooms[nid].stays)
        for nid in known - wanted:
            self._rooms[nid].known_upto = upto

    def _forget(self, room_nids: Iterable[int]) -> None:
        for nid in room_nids:
            self._size -= len(self._rooms.pop(nid).stays)
