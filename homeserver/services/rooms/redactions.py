"""What redactions redact, whether they come behind what they redact or before it (rooms v3, Handling redactions)."""

from collections.abc import Iterable, Mapping, Sequence

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId, domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.placement import Redaction, State
from homeserver.services.rooms.power import may_act
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.states import find_in_state
from homeserver.storage import event_graph, events
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair

_REDACTION = "m.room.redaction"
_LEVELS: Pair = ("m.room.power_levels", "")

Pending = Mapping[EventId, Sequence[StoredEvent]]
"""Redactions that wait, by what they wait for."""


class Redactions:
    """Finds out which redactions count."""

    def __init__(self, database: Database, trees: StateTrees) -> None:
        self._database = database
        self._trees = trees

    async def of(self, room: HotRoom, redaction: Event, target: StoredEvent | None, before: State) -> Redaction | None:
        """What the event redacts, if it may; `before` is the state before it."""
        if redaction.type != _REDACTION or target is None or target.status == events.REJECTED:
            return None
        event = parse(target, room.version.identifier)
        if not await self._may_redact(room, redaction, event, before):
            return None
        return Redaction(target.position, event.redacted())

    async def before(self, room: HotRoom, event: Event, pending: Sequence[StoredEvent]) -> int | None:
        """The position of a redaction that came earlier than the event that it redacts, among those that wait."""
        for row in pending:
            redaction = parse(row, room.version.identifier)
            if row.status == events.OK and await self._may_redact(room, redaction, event, State(row.state_before)):
                return row.position
        return None

    async def _may_redact(self, room: HotRoom, redaction: Event, target: Event, before: State) -> bool:
        if target.type == "m.room.create":
            return False
        if room.version.redaction_by_auth_rule or domain_of(redaction.sender) == domain_of(target.sender):
            return True
        levels = await self._database.snapshot(self._levels, room, before)
        assert room.create is not None
        return may_act(UserId(redaction.sender), "redact", levels, room.create)

    def _levels(self, tx: ReadTx, room: HotRoom, state: State) -> Event | None:
        return find_in_state(tx, self._trees, room, state, [_LEVELS]).get(_LEVELS)


def find_held_back(tx: ReadTx, room_nid: int, version: str, found: Iterable[tuple[StoredEvent, Event]]) -> set[int]:
    """The positions of those redactions, among events of a room, that redact nothing (yet).

    Clients do what a redaction says without asking, so they are shown none before it counts. It is found out by what
    it names: once that is redacted, and by whatever, it does no harm.
    """
    if ROOM_VERSIONS[version].redaction_by_auth_rule:
        return set()
    # One that was redacted, in versions in which it does not say any more what it names, says nothing to anybody.
    named = {
        row.position: EventId(event.redacts or "")
        for row, event in found
        if event.type == _REDACTION and (event.redacts or row.redacted_by is None)
    }
    if not named:
        return set()
    done = events.find_redacted(tx, room_nid, [target for target in named.values() if target])
    return {position for position, target in named.items() if target not in done}


def find_pending(tx: ReadTx, room: HotRoom, event_ids: Iterable[EventId]) -> Pending:
    """The room's redactions that wait for these events, in order."""
    waiting = event_graph.find_pending_redactions(tx, event_ids)
    rows = events.find_many(tx, {at for positions in waiting.values() for at in positions}) if waiting else {}
    return {
        target: [rows[at] for at in positions if at in rows and rows[at].room_nid == room.room_nid]
        for target, positions in waiting.items()
    }
