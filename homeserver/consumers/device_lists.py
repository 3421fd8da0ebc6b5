"""Device lists between servers: what others have to hear of ours, and what is to be fetched of theirs."""

from homeserver.kit.clock import Clock
from homeserver.services.federation.device_lists import RESYNC, RemoteDeviceLists
from homeserver.services.users import device_lists
from homeserver.storage.engine import Database
from homeserver.storage.introductions import INTRODUCTIONS
from homeserver.streams.notifier import Notifier

_BATCH = 50
_LOOK_AGAIN_S = 60.0
_SHORTEST_S = 1.0
_TIDY_S = 3600.0


class Introductions:
    """Tells servers of the devices of those who came to a room."""

    def __init__(self, database: Database, notifier: Notifier) -> None:
        self._database = database
        self._notifier = notifier

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([INTRODUCTIONS]) as waiter:
                while await self._database.write(device_lists.introduce_next, limit=_BATCH):
                    pass
                await waiter.wait(_LOOK_AGAIN_S)


class Resyncs:
    """Fetches the device lists of which something was missed, until that succeeds."""

    def __init__(self, clock: Clock, notifier: Notifier, lists: RemoteDeviceLists) -> None:
        self._clock = clock
        self._notifier = notifier
        self._lists = lists
        self._tidied_at = clock.monotonic()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([RESYNC]) as waiter:
                due = await self._lists.resync()
                if self._clock.monotonic() - self._tidied_at >= _TIDY_S:
                    self._tidied_at = self._clock.monotonic()
                    await self._lists.tidy()
                now = self._clock.now()
                await waiter.wait(
                    _LOOK_AGAIN_S if due is None else min(max((due - now) / 1000, _SHORTEST_S), _LOOK_AGAIN_S)
                )
