"""Events that wait for what they follow: they are kept as bytes in the database, and come back when it has come."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.intake import Intake, in_order
from homeserver.storage import event_graph
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.event_graph import Waiting

_MOST_WAITING = 10_000
"""So many events of a room may wait for others; then those that have waited for the longest time are let go."""
_RELEASED = 200
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
        """The events that waited for this one, and for them, here and in the database, each behind what it follows."""
        followers = await self._followers(room, event_id, intake)
        pdus = {one: intake.waiting.pop(one).pdu for one in followers if one in intake.waiting}
        wanted = followers - pdus.keys()
        staged = await self._database.read(event_graph.find_waiting_pdus, wanted) if wanted else {}
        intake.staged.update(staged)
        pdus |= staged
        intake.coming.update(pdus)
        version = room.version.identifier
        return list(in_order({one: Event.parse(pdu, version, one) for one, pdu in pdus.items()}))

    async def keep(self, room: HotRoom, intake: Intake) -> None:
        """Let what has to wait do so in the database."""
        if intake.waiting:
            self._calm.discard(room.room_id)
            await self._database.write(_keep, room, list(intake.waiting.values()), intake.hand_over_first())

    async def _followers(self, room: HotRoom, event_id: EventId, intake: Intake) -> set[EventId]:
        """Some of what waited for this event, directly or not."""
        assert room.room_nid is not None
        if intake.after is None:
            intake.after = await self._database.read(event_graph.list_followers, room.room_nid)
            for one, waiting in intake.waiting.items():
                for missing in waiting.missing:
                    intake.after.setdefault(missing, set()).add(one)
        found: set[EventId] = set()
        ways = deque([event_id])
        while ways and len(found) < _RELEASED:
            followers = intake.after.get(ways.popleft(), set()) - found - intake.coming
            ways.extend(followers)
            found |= {one for one in followers if not intake.is_placed(one)}
        return found


def _keep(tx: WriteTx, room: HotRoom, waiting: Sequence[Waiting], first: Callable[[WriteTx], None] | None) -> None:
    assert room.room_nid is not None
    if first is not None:
        first(tx)
    event_graph.let_wait(tx, waiting)
    too_many = event_graph.count_waiting(tx, room.room_nid) - _MOST_WAITING
    if too_many > 0:
        event_graph.end_waiting(tx, event_graph.list_oldest_waiting(tx, room.room_nid, limit=too_many))
