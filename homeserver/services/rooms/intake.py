"""Events of one room that are being taken in, from what is known of them at the beginning to what became of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.kit.ordering import in_topological_order
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.receipts import Outcome, Receipt, of_stored
from homeserver.storage import event_graph, events
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.event_graph import Waiting
from homeserver.storage.events import Standing, StoredEvent


class FirstWrite:
    """Statements for the first transaction that writes something of a delivery.

    Whatever of it is in the database after a crash, they are. What is handed over has them with it until one of the
    transactions is committed: those before may fail.
    """

    def __init__(self, statements: Callable[[WriteTx], None]) -> None:
        self._statements = statements
        self._last: WriteTx | None = None
        self.is_handed_over = False
        self.is_written = False

    def hand_over(self) -> Callable[[WriteTx], None] | None:
        """What is to be done in the transaction that is handed over next; nothing once it is committed."""
        if self.is_written:
            return None
        self.is_handed_over = True
        return self._write

    def _write(self, tx: WriteTx) -> None:
        if self.is_written or self._last is tx:
            return  # Several parts of a delivery may be in one transaction.
        self._last = tx
        self._statements(tx)
        tx.on_commit(self._note)

    def _note(self) -> None:
        self.is_written = True


@dataclass(slots=True)
class Intake:
    """Events that passed the first checks, and how far they have come."""

    checked: Mapping[EventId, Event]
    receipts: dict[EventId, Receipt]
    is_calm: bool = True
    """Nothing waits in the room."""
    wanted: set[EventId] = field(default_factory=set)
    """Of the events that are being taken in, those that others wait for."""
    released: set[EventId] = field(default_factory=set)
    """What had waited, and was given a chance to be placed."""
    unfinished: set[EventId] = field(default_factory=set)
    """What has come, or is about to, and perhaps not everything that waits for it."""
    outliers: set[EventId] = field(default_factory=set)
    """What is stored already, because others cite it; it has no place yet."""
    staged: set[EventId] = field(default_factory=set)
    """What waits in the database."""
    waiting: dict[EventId, Waiting] = field(default_factory=dict)
    """What was found to have to wait."""
    unkept: set[EventId] = field(default_factory=set)
    """What of it is not in the database yet."""
    coming: set[EventId] = field(default_factory=set)
    """What is about to be placed."""
    writing: list[Awaitable[list[StoredEvent]]] = field(default_factory=list)
    relayed: dict[EventId, ServerName] = field(default_factory=dict)
    """What is to be sent on, with the server that has it already."""
    first: FirstWrite | None = None
    """What is to be written with the first of it."""
    is_presumed_new: bool = False
    """Nobody has looked what is known of the events: they may follow all there is, and nothing else."""

    def hand_over_first(self) -> Callable[[WriteTx], None] | None:
        """What the transaction that is handed over next has to write as well."""
        return None if self.first is None else self.first.hand_over()

    def is_placed(self, event_id: EventId) -> bool:
        """Whether nothing is to be done for the event any more."""
        receipt = self.receipts.get(event_id)
        return receipt is not None and receipt.outcome != Outcome.WAITING

    def waits_behind(self, event: Event) -> frozenset[EventId]:
        """Those that the event names which wait themselves."""
        if not self.waiting:
            return frozenset()
        return frozenset(one for one in map(EventId, (*event.prev_events, *event.auth_events)) if one in self.waiting)

    def let_wait(self, waiting: Waiting) -> None:
        """Note that an event has to wait."""
        self.waiting[waiting.event_id] = waiting
        self.unkept.add(waiting.event_id)
        self.wanted |= waiting.missing

    async def settle(self) -> None:
        """Wait until everything that was handed to the writer is committed."""
        writing, self.writing = self.writing, []
        for done in writing:
            await done


def begin(tx: ReadTx, coming: Mapping[HotRoom, Mapping[EventId, Event]]) -> dict[HotRoom, Intake]:
    """What is known of events that passed the first checks, and what earlier ones wait for."""
    ids = [event_id for checked in coming.values() for event_id in checked]
    standings = events.find_standings_by_id(tx, ids)
    waiting = event_graph.find_waiting(tx, ids)
    missing = event_graph.find_missing(tx, ids)
    restless = event_graph.find_rooms_waiting(tx, [_nid(room) for room in coming])
    return {
        room: Intake(
            checked,
            _settled(room, checked, standings),
            is_calm=_nid(room) not in restless,
            wanted=missing & checked.keys(),
            outliers=_outliers(checked, standings),
            staged=waiting & checked.keys(),
        )
        for room, checked in coming.items()
    }


def begin_calmly(tx: ReadTx, coming: Mapping[HotRoom, Mapping[EventId, Event]]) -> dict[HotRoom, Intake]:
    """The same for rooms of which no event waits."""
    standings = events.find_standings_by_id(tx, [one for checked in coming.values() for one in checked])
    return {
        room: Intake(checked, _settled(room, checked, standings), outliers=_outliers(checked, standings))
        for room, checked in coming.items()
    }


def presume_new(checked: Mapping[EventId, Event]) -> Intake:
    """The same for an event that follows all there is, and so is hardly known already: nobody looks.

    If it is, because others cite it or because it was refused before, the database will not take it a second time.
    """
    return Intake(checked, {}, is_presumed_new=True)


def in_order(found: Mapping[EventId, Event]) -> Iterable[Event]:
    """The events, each behind those among them that it names.

    A chain of events comes in one piece: what follows all there is, is taken in much faster than what makes a branch.
    """
    behind = {
        event_id: {EventId(one) for one in (*event.prev_events, *event.auth_events) if one in found and one != event_id}
        for event_id, event in found.items()
    }
    return (found[event_id] for event_id in in_topological_order(behind))


def _settled(
    room: HotRoom, checked: Mapping[EventId, Event], standings: Mapping[EventId, Standing]
) -> dict[EventId, Receipt]:
    """What became of those of the events that need not be placed any more."""
    return {
        event_id: receipt
        for event_id, receipt in of_stored(room, checked, standings).items()
        # The create event comes before all others, whether or not what followed it is known (any more).
        if receipt.outcome != Outcome.OUTLIER or not checked[event_id].prev_events
    }


def _outliers(checked: Mapping[EventId, Event], standings: Mapping[EventId, Standing]) -> set[EventId]:
    return {one for one in checked if one in standings and standings[one].status == events.OUTLIER}


def _nid(room: HotRoom) -> int:
    assert room.room_nid is not None
    return room.room_nid
