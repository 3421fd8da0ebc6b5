"""Guests are in a room only as long as it lets guests in, whoever changes that, and wherever."""

from homeserver.services.rooms.guests import Guests
from homeserver.storage.members import GUESTS
from homeserver.streams.notifier import Notifier

_LOOK_AGAIN_S = 300.0


class GuestAccess:
    """Has guests leave at the start, which may have come between a join and its end, and whenever a room changes."""

    def __init__(self, notifier: Notifier, guests: Guests) -> None:
        self._notifier = notifier
        self._guests = guests

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([GUESTS]) as waiter:
                await self._guests.put_out_everywhere()
                await waiter.wait(_LOOK_AGAIN_S)
