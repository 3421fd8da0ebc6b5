"""Coming into a room through another server: what follows `send_join` (server-server API, Joining Rooms)."""

from collections.abc import Collection, Sequence

from homeserver.errors import Unreachable
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.inbox import Inbox, Outcome
from homeserver.storage.state import Pair


class Arrivals:
    """Brings this server into rooms."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def arrive(
        self,
        room_id: RoomId,
        version: str,
        pdu: bytes,
        state: Sequence[bytes],
        auth_chain: Sequence[bytes],
        *,
        partial: Collection[str] | None,
        via: str,
    ) -> EventId:
        """Take a join event with all that it stands on. Raises `Unreachable` where nothing can be made of it."""
        del partial
        try:
            events = [Event.parse(one, version) for one in state]
            join = Event.parse(pdu, version)
        except (CanonicalJsonError, MalformedEvent) as error:
            raise Unreachable(f"{via} gave what is no event: {error}") from None
        creates = [one.pdu for one in events if one.type == "m.room.create"]
        await self._inbox.receive(room_id, creates)
        await self._inbox.receive_outliers(room_id, [*auth_chain, *state])
        given: dict[Pair, EventId] = {(one.type, one.state_key or ""): EventId(one.event_id) for one in events}
        receipt = await self._inbox.receive_with_state(room_id, pdu, given)
        if receipt.outcome is not Outcome.ACCEPTED:
            raise Unreachable(f"The join cannot be taken in: {receipt.outcome} {receipt.reason}")
        return EventId(join.event_id)
