"""What a server has of a room, as it is stored."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId, domain_of
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import event_graph, event_log, events, places, rooms
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair

State = Mapping[Pair, Event]


@dataclass(frozen=True)
class Seen:
    """A room as one server has it."""

    version: str
    rows: Mapping[int, StoredEvent]
    """By position."""
    events: Mapping[str, Event]
    state: State
    gaps: set[str]
    """What is missing, as it knows, before events that it has."""

    @property
    def create(self) -> Event:
        """The event that made the room."""
        return next(one for one in self.events.values() if one.type == "m.room.create")

    @property
    def inside(self) -> set[str]:
        """The servers of which a user is in the room."""
        members = (one for (type_, _), one in self.state.items() if type_ == "m.room.member")
        return {domain_of(one.state_key or "") for one in members if one.membership == "join"}

    @property
    def departures(self) -> dict[str, set[str]]:
        """By server, the events of the state by which its users are out of the room."""
        found: dict[str, set[str]] = defaultdict(set)
        for (type_, user_id), event in self.state.items():
            if type_ == "m.room.member" and event.membership != "join":
                found[domain_of(user_id)].add(event.event_id)
        return found

    @property
    def verdicts(self) -> dict[str, int]:
        """What became of each event that it has."""
        return {row.event_id: row.status for row in self.rows.values()}

    @property
    def placed(self) -> set[str]:
        """The events at which it knows the state."""
        return {row.event_id for row in self.rows.values() if row.state_after is not None}

    @property
    def live(self) -> list[StoredEvent]:
        """The events of the room that came as they happened, in the order in which clients hear of them."""
        placed = (row for row in self.rows.values() if row.status == events.OK and row.place is not None)
        return sorted((row for row in placed if not places.is_past(row.timeline_place)), key=_place)

    def of_status(self, status: int) -> set[str]:
        """The events of which this became."""
        return {row.event_id for row in self.rows.values() if row.status == status}

    def is_unaware_of(self, other: "Seen", server: str) -> bool:
        """Whether by the other's knowledge no user of this server is in the room, for reasons that have not come here.

        Who was put out may ask nobody for what came before, and so may never be able to place the news of it.
        """
        return server not in other.inside and not other.departures[server] <= self.placed


class States:
    """The states of a room, read once each."""

    def __init__(self, tx: ReadTx, seen: Seen) -> None:
        self._tx = tx
        self._seen = seen
        self._trees = StateTrees()
        self._states: dict[int | None, State] = {}

    def at(self, root: int | None) -> State:
        """The state of this root."""
        if root not in self._states:
            rows = self._seen.rows
            self._states[root] = {
                pair: self._seen.events[rows[at].event_id] for pair, at in self._trees.items(self._tx, root).items()
            }
        return self._states[root]


def look(tx: ReadTx, room_id: str) -> Seen | None:
    """The room; None if the server does not know it."""
    room = rooms.find(tx, RoomId(room_id))
    if room is None:
        return None
    rows = {row.position: row for row in event_log.list_from(tx, room.room_nid, after=0, limit=100_000)}
    parsed: dict[str, Event] = {row.event_id: parse(row, room.version) for row in rows.values()}
    gaps: set[str] = {event_id for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid)}
    state = {pair: parsed[rows[at].event_id] for pair, at in StateTrees().items(tx, room.state_root).items()}
    return Seen(room.version, rows, parsed, state, gaps)


def _place(row: StoredEvent) -> int:
    return row.timeline_place
