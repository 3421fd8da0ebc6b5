"""Events that wait for what they follow: they are kept as bytes in the database, and come back when it has come."""

from collections.abc import Callable, Collection, Mapping, Sequence

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.intake import Intake, in_order
from homeserver.storage import event_graph
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.event_graph import Waiting

_MOST_WAITING = 10_000
_MOST_BYTES = 32 << 20
"""So many events of a room may wait for others, with so many bytes; then those of whom there is most are let go."""
_MOST_OF_STRANGERS = 100
"""So many of users of servers that are not in the room, as far as is known."""
_FEW = 500
"""So many are not too many however large they are."""
_RELEASED = 100
"""So many events that waited are read at a time."""


class WaitingEvents:
    """Remembers what waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calm: set[RoomId] = set()

    def are_calm(self, room_ids: Collection[RoomId]) -> bool:
        """Whether it is known that no event of these rooms waits."""
        return self._calm.issuperset(room_ids)

    def note_calm(self, room_id: RoomId) -> None:
        """It was found that no event of the room waits."""
        self._calm.add(room_id)

    async def release(self, room: HotRoom, event_id: EventId, intake: Intake) -> list[Event]:
        """The events that waited for this one, and for them, each behind what it follows; the first of them if many."""
        assert room.room_nid is not None
        await self.keep(room, intake)
        pdus = await self._database.read(event_graph.list_followers, room.room_nid, event_id, limit=_RELEASED)
        if len(pdus) == _RELEASED and not intake.released.issuperset(pdus):
            intake.unfinished |= {event_id, *pdus}
        intake.released.update(pdus)
        pdus = {one: pdu for one, pdu in pdus.items() if one not in intake.coming and not intake.is_placed(one)}
        for one in pdus:
            intake.waiting.pop(one, None)
        intake.staged.update(pdus)
        intake.coming.update(pdus)
        version = room.version.identifier
        return list(in_order({one: Event.parse(pdu, version, one) for one, pdu in pdus.items()}))

    async def release_more(self, room: HotRoom, intake: Intake) -> list[Event]:
        """More of what waits for events that have been placed, which are in the database."""
        await self.keep(room, intake)
        placed = {one for one in intake.unfinished if intake.is_placed(one)}
        intake.unfinished = await self._database.read(event_graph.find_missing, placed)
        while intake.unfinished:
            if released := await self.release(room, intake.unfinished.pop(), intake):
                return released
        return []

    async def keep(self, room: HotRoom, intake: Intake) -> None:
        """Let what has to wait do so in the database."""
        if intake.unkept:
            self._calm.discard(room.room_id)
            new = [intake.waiting[event_id] for event_id in intake.waiting if event_id in intake.unkept]
            intake.unkept.clear()
            await self._database.write(_keep, room, new, intake.hand_over_first())


def _keep(tx: WriteTx, room: HotRoom, waiting: Sequence[Waiting], first: Callable[[WriteTx], None] | None) -> None:
    assert room.room_nid is not None
    if first is not None:
        first(tx)
    event_graph.let_wait(tx, waiting)
    has_strangers = any(one.server not in room.servers for one in waiting)
    if has_strangers or event_graph.count_waiting(tx, room.room_nid) > _FEW:
        _bound(tx, room, room.room_nid)


def _bound(tx: WriteTx, room: HotRoom, room_nid: int) -> None:
    """Let go what is too much, the oldest first: of strangers, then of whose events there is most."""
    held = event_graph.measure_waiting(tx, room_nid)
    strangers = {server: measure for server, measure in held.items() if server not in room.servers}
    _let_go(tx, room_nid, strangers, most=_MOST_OF_STRANGERS)
    _let_go(tx, room_nid, held | strangers, most=_MOST_WAITING)


def _let_go(tx: WriteTx, room_nid: int, held: dict[ServerName, tuple[int, int]], *, most: int) -> None:
    """Let go events of those servers of which most bytes wait, until there are not too many."""
    while _is_too_much(held, most):
        server = max(held, key=lambda one: held[one][1])
        gone = []
        for event_id, size in event_graph.list_oldest_of(tx, room_nid, server, limit=_RELEASED):
            gone.append(event_id)
            held[server] = held[server][0] - 1, held[server][1] - size
            if not _is_too_much(held, most) or held[server][1] < max(size for _, size in held.values()):
                break
        event_graph.end_waiting(tx, gone)


def _is_too_much(held: Mapping[ServerName, tuple[int, int]], most: int) -> bool:
    return sum(count for count, _ in held.values()) > most or sum(size for _, size in held.values()) > _MOST_BYTES
