"""Events of ours that other servers have signed, as only then they are allowed: the room may have gone on meanwhile."""

from collections.abc import Sequence

from homeserver.errors import Forbidden, Unavailable
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.receipts import Outcome


class SignedElsewhere:
    """Takes them in, as any event that comes from elsewhere."""

    def __init__(self, inbox: Inbox, gaps: Gaps) -> None:
        self._inbox = inbox
        self._gaps = gaps

    async def take(
        self,
        room_id: RoomId,
        event: Event,
        *,
        stands_on: Sequence[bytes] = (),
        relay_to_all_but: ServerName | None = None,
    ) -> EventId:
        """Take such an event in; `stands_on` are events that it may cite.

        Raises `Forbidden` if the room does not allow it (any more), `Unavailable` if that cannot be said yet.
        """
        if stands_on:
            await self._inbox.receive_outliers(room_id, stands_on)
        [receipt] = await self._inbox.receive(room_id, [event.pdu], relay_to_all_but=relay_to_all_but)
        if receipt.outcome is Outcome.WAITING:
            # Others are ahead of us; what lies between is asked for, and the event is placed on the way.
            await self._gaps.fill(room_id, [EventId(event.event_id)])
            [receipt] = await self._inbox.receive(room_id, [event.pdu])
        if receipt.outcome is Outcome.WAITING:
            raise Unavailable("The room is not up to date here. Try again.")
        if receipt.outcome in (Outcome.REJECTED, Outcome.SOFT_FAILED, Outcome.DROPPED):
            raise Forbidden(receipt.reason or "The room does not allow this any more.")
        return EventId(event.event_id)
