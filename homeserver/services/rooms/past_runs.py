"""Runs of events of the past: those that stand on one stored state of the room, and on each other.

A run is judged in one look at the database and can be written in one transaction, as nothing of it needs anything else:
its state events are stored as outliers already, so that the states after them have a name. What has to resolve states,
redacts, or is redacted, ends a run, and so does what stands on another state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.past_plan import Planned
from homeserver.services.rooms.placement import NewEvent, Placement, Resolved, State
from homeserver.services.rooms.redactions import find_pending
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.verdicts import auth_keys, refusal
from homeserver.storage import events
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.state import Pair


@dataclass(frozen=True, slots=True)
class Run:
    """How many of the events, from the first one, are a run, and those of them that can be written."""

    length: int
    new: Sequence[NewEvent]


@dataclass(slots=True)
class _Ground:
    """What is stored that the events stand on, and what they come to so far."""

    room: HotRoom
    known: Mapping[EventId, StoredEvent]
    root: int
    pair_ids: Mapping[Pair, int]
    state: Mapping[int, Event]
    """The events of the state that all of it begins with, by pair."""
    later: dict[int, Event] = field(default_factory=dict)
    """State events of the run, by position."""
    after: dict[EventId, State] = field(default_factory=dict)
    refused: set[EventId] = field(default_factory=set)


def judge(tx: ReadTx, trees: StateTrees, room: HotRoom, planned: Sequence[Planned]) -> Run:
    """Judge events in their order, as far as they are a run."""
    ids = [EventId(one.event.event_id) for one in planned]
    redacted = find_pending(tx, room, ids)
    known = _find_known(tx, room, planned)
    ground: _Ground | None = None
    length, new = 0, []
    for one in planned:
        event = one.event
        is_complete = all(EventId(cited) in known for cited in event.auth_events)
        is_unnamed = event.state_key is not None and is_complete and EventId(event.event_id) not in known
        if event.type == "m.room.redaction" or event.event_id in redacted or is_unnamed:
            break
        before = _state_before(event, known, {} if ground is None else ground.after)
        if before is None or before.root is None or (ground is not None and before.root != ground.root):
            break
        if ground is None:
            ground = _find_ground(tx, trees, room, known, before.root, planned)
        length += 1
        if is_complete:
            new.append(_judge(one, before, ground))
    return Run(length, new)


def _find_known(tx: ReadTx, room: HotRoom, planned: Sequence[Planned]) -> dict[EventId, StoredEvent]:
    """What the events name, and themselves as outliers."""
    names = {
        EventId(one)
        for event in (one.event for one in planned)
        for one in (event.event_id, *event.prev_events, *event.auth_events)
    }
    found = events.find_many_by_id(tx, names)
    # What is of another room is as good as not known: nothing in this room can stand on it.
    return {event_id: row for event_id, row in found.items() if row.room_nid == room.room_nid}


def _find_ground(
    tx: ReadTx,
    trees: StateTrees,
    room: HotRoom,
    known: Mapping[EventId, StoredEvent],
    root: int,
    planned: Sequence[Planned],
) -> _Ground:
    pair_ids = trees.pair_ids(tx, {pair for one in planned for pair in auth_keys(one.event)})
    positions = trees.find_ids(tx, [root], pair_ids.values())[root]
    stored = events.find_many(tx, positions.values())
    state = {pair_id: parse(stored[at], room.version.identifier) for pair_id, at in positions.items()}
    return _Ground(room, known, root, pair_ids, state)


def _state_before(event: Event, known: Mapping[EventId, StoredEvent], after: Mapping[EventId, State]) -> State | None:
    """The one state that all events before it come to; None if there is no such."""
    states = []
    for event_id in map(EventId, event.prev_events):
        row = known.get(event_id)
        if event_id in after:
            states.append(after[event_id])
        elif row is not None and row.has_state:
            states.append(State(row.state_after))
        else:
            return None
    return states[0] if states and all(one == states[0] for one in states) else None


def _judge(one: Planned, before: State, ground: _Ground) -> NewEvent:
    event, event_id = one.event, EventId(one.event.event_id)
    own = ground.known.get(event_id)  # It is there if the event is one of state.
    cited = [ground.known[one] for one in dict.fromkeys(map(EventId, event.auth_events))]
    rejected = {row.event_id for row in cited if row.status == events.REJECTED or row.event_id in ground.refused}
    reason = refusal(
        event,
        [parse(row, ground.room.version.identifier) for row in cited],
        _state_for(event, before, ground),
        ground.room.create,
        rejected,
    )
    placement = Placement(Resolved(before), outlier=None if own is None else own.position, place=one.place)
    ground.after[event_id] = before
    if reason:
        ground.refused.add(event_id)
    elif own is not None and own.pair_id is not None:
        ground.after[event_id] = State(before.root, {**before.changes, own.pair_id: own.position})
        ground.later[own.position] = event
    return NewEvent(event, status=events.REJECTED if reason else events.OK, placement=placement)


def _state_for(event: Event, before: State, ground: _Ground) -> list[Event]:
    """The pieces of the state before the event that decide whether it is allowed."""
    found = []
    for pair in auth_keys(event):
        pair_id = ground.pair_ids.get(pair)
        if pair_id is None:
            continue
        at = before.changes.get(pair_id)
        piece = ground.state.get(pair_id) if at is None else ground.later[at]
        if piece is not None:
            found.append(piece)
    return found
