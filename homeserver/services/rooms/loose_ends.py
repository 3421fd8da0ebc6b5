"""What an event settles when it comes: it waits no longer, is missing no longer, and redactions meet their targets."""

from collections.abc import Callable

from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.services.rooms.placement import NewEvent
from homeserver.storage import event_graph, events, outgoing
from homeserver.storage.engine import WriteTx


def settle(new: NewEvent, *, relay_to_all_but: ServerName | None = None) -> Callable[[WriteTx, int], None]:
    """Statements for the transaction that writes the event, called with the room's number.

    It may be one that is to be sent on to all servers in the room but one.
    """
    event = new.event
    event_id = EventId(event.event_id)
    unapplied = EventId(event.redacts) if event.redacts and new.redaction is None and new.is_accepted else None

    def also(tx: WriteTx, room_nid: int) -> None:
        if new.status != events.OUTLIER:
            event_graph.end_waiting(tx, [event_id])
            event_graph.remove_backward_extremities(tx, [event_id])
        if unapplied is not None and unapplied not in events.find_many_by_id(tx, [unapplied]):
            [row] = events.find_many_by_id(tx, [event_id]).values()
            event_graph.add_pending_redactions(tx, [(room_nid, unapplied, row.position)])
        if new.redacted_by is not None:
            event_graph.remove_pending_redactions(tx, [event_id])

        if relay_to_all_but is not None and new.is_accepted:
            for position in events.find_positions(tx, [event_id]).values():
                outgoing.forward(tx, position, relay_to_all_but)

    return also
