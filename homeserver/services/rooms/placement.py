"""Events and where they stand in the graph of their room, as they are handed to the writer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.services.rooms.hot import HotRoom, Transaction
from homeserver.storage import events
from homeserver.storage.engine import WriteTx
from homeserver.storage.state import Pair

UNSTORED = 1 << 60
"""Stands for the position of the event that is being placed, before it has one. It is above all positions."""


@dataclass(frozen=True, slots=True)
class State:
    """A state of a room: that of a root, with changes: positions by pair id, None for what is not in it."""

    root: int | None
    changes: Mapping[int, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A state that came of resolving several, and what is told of that.

    `roots` are those of the states that were resolved; among them None for the state after the event itself.
    """

    state: State
    roots: tuple[int | None, ...] = ()
    report: bytes = b""


@dataclass(frozen=True, slots=True)
class Redaction:
    """What a redaction event does to the event at a position of the same room."""

    target: int
    redacted: Event


@dataclass(frozen=True, slots=True)
class Change:
    """A pair of the room's current state that is another now: its event and where that is, or nothing."""

    pair: Pair
    event: Event | None
    position: int = UNSTORED


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an event stands that does not simply follow all before it."""

    before: Resolved | None
    """The state before it; None for an outlier."""
    tips: tuple[int, ...] = ()
    """The forward extremities that remain beside it, or, if it is not accepted, that remain."""
    current: Resolved | None = None
    """The state of the room then; None for the state after the event, or, if it is not accepted, for no change."""
    changes: Sequence[Change] = ()
    """What that changes in the current state."""
    outlier: int | None = None
    """The position at which the event is an outlier already."""
    missing: Sequence[str] = ()
    """The events before it that are not known."""
    place: int | None = None
    """Where it stands in the timeline if it is of the past: then nothing of the room is another for it."""
    is_end: bool = True
    """If it is accepted, it becomes a forward extremity: no event that was accepted before follows it."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written, what it redacts, and where it stands; None for behind all others, on current state."""

    event: Event
    redaction: Redaction | None = None
    status: int = events.OK
    placement: Placement | None = None
    redacted_by: int | None = None
    """The position of the redaction that came earlier; `event` is then the redacted form."""
    original: Event | None = None
    """The event as it came, if it is to be stored redacted and is not yet."""
    awaited: EventId | None = None
    """What it redacts, if that is not known."""

    @property
    def is_accepted(self) -> bool:
        """Whether the event is part of the room's history as everybody sees it."""
        return self.status == events.OK


@dataclass(frozen=True, slots=True)
class Audience:
    """The servers that had users in the room before an event, and that have some after it."""

    before: frozenset[ServerName]
    after: frozenset[ServerName]
    removed: ServerName | None = None
    """The server of somebody whom the event turns away who was not in the room: invited, or knocking."""


@dataclass(slots=True)
class Batch:
    """Events for one room, written together or not at all."""

    room: HotRoom
    events: list[NewEvent] = field(default_factory=list)
    transaction: Transaction | None = None
    also: Callable[[WriteTx, int], None] | None = None
    """Further statements of the same transaction, called with the room's number; what they raise undoes the batch."""
    now: int = 0
    is_local: bool = False
    """The events were made here just now: the other servers in the room are to have them."""
    is_presumed_new: bool = False
    """Nobody has looked whether the events are stored already."""
    audiences: list[Audience] = field(default_factory=list)
    """By event; found out by the writer when it takes the batch over."""
