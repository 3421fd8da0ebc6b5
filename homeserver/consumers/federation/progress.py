"""How far a server has got, and how it goes with it: what the ledger writes down of it."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from homeserver.outbound.destinations import Health
from homeserver.storage.destinations import MOST_PDUS, Destination, Parcel

_GROW_AFTER = 3
_NOTE_SUCCESS_MS = 60_000


@dataclass(slots=True, eq=False)
class Progress:
    """The row of a server as it is now, whether or not it is written down already."""

    row: Destination
    is_dirty: bool = False
    """There is something to write down that can wait."""
    _good: int = field(default=0, init=False)
    """How many transactions in a row were taken while they are smaller than they may be."""
    _noted_ts: int = field(default=0, init=False)
    """When it was last to be written down that something was delivered."""

    def begin(self, txn_id: str, parcel: Parcel) -> None:
        """This transaction is next; one with something durable in it is written down before it is sent."""
        self.row = replace(self.row, txn_id=txn_id, txn=parcel)
        if parcel.is_durable:
            self.is_dirty = False

    def end(self, parcel: Parcel) -> None:
        """The server has this transaction, or is not to have it."""
        upto = max(self.row.delivered, parcel.upto)
        self.row = replace(self.row, delivered=upto, txn=None, txn_id=None)
        self.is_dirty = self.is_dirty or parcel.is_durable

    def split(self, parcel: Parcel) -> None:
        """Send less than this at once. It is looked up again: up to where the server has all, is as before."""
        self._good = 0
        at_most = self.row.at_most
        if many := len(parcel.pdus) or len(parcel.edus):
            at_most = max(1, min(at_most, many) // 2)
        self.row = replace(self.row, txn=None, txn_id=None, at_most=at_most)
        self.is_dirty = True

    def leave_out(self) -> None:
        """The server takes all but what was left out of it."""
        self._good = 0
        self.row = replace(self.row, at_most=MOST_PDUS, failures=0, failing_since_ts=None, next_retry_ts=None, error="")

    def succeed(self, now: int, *, was_failing: bool) -> None:
        """The server has taken a transaction."""
        self.row = replace(
            self.row,
            at_most=self._grown(),
            failures=0,
            failing_since_ts=None,
            next_retry_ts=None,
            error="",
            last_success_ts=now,
            last_attempt_ts=now,
        )
        if was_failing or now - self._noted_ts > _NOTE_SUCCESS_MS:
            self.is_dirty = True
        if self.is_dirty:
            self._noted_ts = now

    def fail(self, health: Health) -> None:
        """The server did not take a transaction."""
        self.row = replace(
            self.row,
            failures=health.failures,
            failing_since_ts=health.since_ts,
            next_retry_ts=health.next_retry_ts,
            last_attempt_ts=health.last_attempt_ts,
            error=health.error,
        )

    def catch_up(self) -> None:
        """It was found that the server has all that it was behind with: that is worth writing down some time."""
        self.is_dirty = True

    def rest(self, upto: int) -> bool:
        """There is nothing more for the server up to this position; whether there is something to write down."""
        if not self.is_dirty:
            return False
        self.is_dirty = False
        if upto > self.row.delivered:
            self.row = replace(self.row, delivered=upto)
        return True

    def _grown(self) -> int:
        """How much may be in one transaction, now that one more was taken."""
        if self.row.at_most == MOST_PDUS:
            return MOST_PDUS
        self._good += 1
        if self._good < _GROW_AFTER:
            return self.row.at_most
        self._good = 0
        return min(MOST_PDUS, 2 * self.row.at_most)
