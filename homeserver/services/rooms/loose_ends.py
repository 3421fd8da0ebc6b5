"""What events settle when they come: they wait no longer, are missing no longer, and redactions meet their targets."""

from collections.abc import Callable, Sequence

from homeserver.matrix.identifiers import EventId, ServerName
from homeserver.services.rooms.placement import NewEvent
from homeserver.storage import event_graph, events, outgoing
from homeserver.storage.engine import WriteTx


def settle(new: Sequence[NewEvent], *, relay_to_all_but: ServerName | None = None) -> Callable[[WriteTx, int], None]:
    """Statements for the transaction that writes the events, called with the room's number.

    They may be such that are to be sent on to all servers in the room but one.
    """
    placed = [EventId(one.event.event_id) for one in new if one.status != events.OUTLIER]
    redacted = [EventId(one.event.event_id) for one in new if one.redacted_by is not None]
    relayed = [EventId(one.event.event_id) for one in new if one.is_accepted]
    # What redactions redact that has not come, perhaps, by their own ids.
    unapplied = {EventId(one.event.event_id): one.awaited for one in new if one.awaited is not None}

    def also(tx: WriteTx, room_nid: int) -> None:
        event_graph.end_waiting(tx, placed)
        event_graph.remove_backward_extremities(tx, placed)
        if unapplied:
            known = events.find_positions(tx, {*unapplied, *unapplied.values()})
            pending = [(room_nid, target, known[one]) for one, target in unapplied.items() if target not in known]
            event_graph.add_pending_redactions(tx, pending)
        event_graph.remove_pending_redactions(tx, redacted)
        if relay_to_all_but is not None:
            for position in events.find_positions(tx, relayed).values():
                outgoing.forward(tx, position, relay_to_all_but)

    return also
