"""What became of events that were made elsewhere, as it is told to those who brought them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.checks import Unfit
from homeserver.services.rooms.graph import Placed
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.outliers import Judged
from homeserver.storage import events
from homeserver.storage.events import Standing


class Outcome(Enum):
    """What became of an event."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"
    REJECTED = "rejected"
    OUTLIER = "outlier"
    WAITING = "waiting"
    DROPPED = "dropped"


_OUTCOMES = {
    events.OK: Outcome.ACCEPTED,
    events.SOFT_FAILED: Outcome.SOFT_FAILED,
    events.REJECTED: Outcome.REJECTED,
    events.OUTLIER: Outcome.OUTLIER,
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an event, and why; the id is missing where it cannot be told."""

    event_id: EventId | None
    outcome: Outcome
    reason: str = ""
    missing: frozenset[EventId] = frozenset()
    """What it waits for."""


def told_apart(outcomes: Iterable[Event | Unfit]) -> tuple[dict[EventId, Event], list[Receipt]]:
    """The events that passed the first checks, and a receipt for each that was given."""
    found: dict[EventId, Event] = {}
    receipts = []
    for one in outcomes:
        if isinstance(one, Unfit):
            receipts.append(Receipt(one.event_id, Outcome.DROPPED, one.reason))
        else:
            event_id = EventId(one.event_id)
            found.setdefault(event_id, one)
            receipts.append(Receipt(event_id, Outcome.WAITING))
    return found, receipts


def of_stored(
    room: HotRoom, event_ids: Iterable[EventId], standings: Mapping[EventId, Standing]
) -> dict[EventId, Receipt]:
    """Receipts for those of the events that are stored."""
    return {
        event_id: Receipt(event_id, _OUTCOMES[standing.status])
        if standing.room_nid == room.room_nid
        else Receipt(event_id, Outcome.DROPPED, "An event of this id is in another room.")
        for event_id in event_ids
        if (standing := standings.get(event_id)) is not None
    }


def of_placed(event: Event, placed: Placed) -> Receipt:
    """The receipt of an event that was placed, or that waits."""
    event_id = EventId(event.event_id)
    if placed.new is None:
        return Receipt(event_id, Outcome.WAITING, missing=placed.missing)
    return Receipt(event_id, _OUTCOMES[placed.new.status], placed.reason)


def of_judged(event_id: EventId, judged: Judged) -> Receipt:
    """The receipt of an outlier."""
    if judged.status is None:
        return Receipt(event_id, Outcome.WAITING, missing=judged.missing)
    return Receipt(event_id, _OUTCOMES[judged.status], judged.reason)


def told(receipts: Iterable[Receipt], became: Mapping[EventId, Receipt]) -> list[Receipt]:
    """The receipts, where what passed the first checks has that of what became of it."""
    return [
        receipt
        if receipt.event_id is None or receipt.outcome == Outcome.DROPPED
        else became.get(receipt.event_id, receipt)
        for receipt in receipts
    ]
