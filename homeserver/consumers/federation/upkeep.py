"""What the sender has to do from time to time: look at its timers, write down what can wait, forget what is done."""

from itertools import count

from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.recipients import Recipients
from homeserver.consumers.federation.turns import Turns
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import contained
from homeserver.kit.logs import report
from homeserver.storage import outgoing
from homeserver.storage.engine import Database

_TICK_S = 1.0
_FLUSH_TICKS = 5
_TRIM_S = 3600.0
_TRIM_BATCH = 2000


class Upkeep:
    """Does so."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self, recipients: Recipients, turns: Turns, ledger: Ledger) -> None:
        """Work until cancelled."""
        trimmed, below = self._clock.monotonic(), recipients.tail
        for ticks in count(1):
            await self._clock.sleep(_TICK_S)
            if ticks % _FLUSH_TICKS == 0:
                ledger.flush()
            turns.look_at_timers()
            now = self._clock.monotonic()
            if now - trimmed >= _TRIM_S:
                # What it does not get done is left for the next time.
                await contained(self._trim(recipients, below), report)
                trimmed, below = now, recipients.tail

    async def _trim(self, recipients: Recipients, below: int) -> None:
        queued = [one.pending.queue[0] for one in recipients if one.pending.queue]
        below = min([below, *queued])
        while await self._database.write(outgoing.trim, below=below, limit=_TRIM_BATCH) == _TRIM_BATCH:
            pass
        await self._database.write(outgoing.forget_stays, below=below)
