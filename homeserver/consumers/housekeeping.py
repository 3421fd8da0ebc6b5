"""What has to be done from time to time."""

from homeserver.kit.clock import Clock
from homeserver.services.auth.sessions import Sessions
from homeserver.services.federation.to_device import REMEMBERED_MS
from homeserver.services.live.presence import SWEEP_S, Presence
from homeserver.services.rooms.purge import PURGES, Purge
from homeserver.storage import server_keys, to_device, transactions
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier

_TRANSACTIONS_MS = 24 * 60 * 60 * 1000
_EVERY_SWEEPS = 6  # Once a minute.
_PURGES_S = 5.0
_KEYS_S = 60 * 60.0
_STRANGERS = 50_000
"""There are fewer servers than that."""
_STRANGERS_AT_ONCE = 500


class Housekeeping:
    """Notices who has gone, writes down when devices were seen, forgets old transaction ids."""

    def __init__(self, database: Database, clock: Clock, presence: Presence, sessions: Sessions) -> None:
        self._database = database
        self._clock = clock
        self._presence = presence
        self._sessions = sessions

    async def run(self) -> None:
        """Work until cancelled."""
        sweeps = 0
        while True:
            await self._clock.sleep(SWEEP_S)
            await self._presence.sweep()
            sweeps += 1
            if sweeps % _EVERY_SWEEPS == 0:
                await self.tidy()

    async def tidy(self) -> None:
        """Write down and forget."""
        await self._sessions.write_seen()
        await self._database.write(transactions.delete_older, before=self._clock.now() - _TRANSACTIONS_MS)
        await self._database.write(to_device.forget_received, before=self._clock.now() - REMEMBERED_MS)


class Purging:
    """Carries out purges: those begun here at once, those begun by a command, or left by a crash, soon."""

    def __init__(self, notifier: Notifier, purge: Purge) -> None:
        self._notifier = notifier
        self._purge = purge

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([PURGES]) as waiter:
                await self._purge.work(is_server=True)
                await waiter.wait(_PURGES_S)


class Strangers:
    """Forgets the keys of servers that this one was only asked about, or asked by, where there are too many.

    Who owns a domain has as many servers as they like, and their keys are kept to be told to others. Those of servers
    that events were sent to stay: what they signed long ago may have to be proven some day.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: int = _STRANGERS) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while await self._database.write(server_keys.forget_strangers, keep=self._keep, limit=_STRANGERS_AT_ONCE):
                pass  # Others have their turn between two of them.
            await self._clock.sleep(_KEYS_S)
