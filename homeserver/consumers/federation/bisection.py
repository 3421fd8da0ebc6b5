"""What to do about a transaction that was not taken: leave the server alone, or find out what is at fault.

Where a server takes empty transactions and not this one, smaller ones are tried, until the event that it refuses is
found, noted and left out.
"""

import structlog

from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.outcomes import Outcomes, readable
from homeserver.consumers.federation.recipients import Attempt, Recipient
from homeserver.errors import Refused, RemoteFailure
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.federation import FederationClient
from homeserver.storage.destinations import MOST_PDUS, Parcel, Skipped

_SUSPICIOUS = 2
_SUSPICIOUS_SILENCE = 4
"""So often the same was answered by an error, or not at all, before it is asked whose fault it is."""
_BLAMED = 2
_BLAMED_ALONE = 3
"""So often a transaction, or one thing alone, was not taken while an empty one was, before it is believed."""

log = structlog.get_logger()


class Bisection:
    """Finds out what a server does not take."""

    def __init__(
        self,
        clock: Clock,
        randomness: Randomness,
        client: FederationClient,
        health: Destinations,
        ledger: Ledger,
        outcomes: Outcomes,
    ) -> None:
        self._clock = clock
        self._randomness = randomness
        self._client = client
        self._health = health
        self._ledger = ledger
        self._outcomes = outcomes

    async def cope(self, recipient: Recipient, parcel: Parcel, failure: RemoteFailure) -> bool:
        """A transaction was not taken; whether it is of use to send another at once."""
        self._outcomes.count_failure(failure)
        recipient.attempt.fail()
        if _is_suspicious(recipient, parcel, failure) and await self._takes_empty_ones(recipient):
            # It may have come back just now: what is not taken a moment later is at fault, and what is to be left
            # out for ever has some moments.
            recipient.attempt.blame()
            is_alone = parcel.size == 1
            if recipient.attempt.blamed >= (_BLAMED_ALONE if is_alone else _BLAMED):
                self._split(recipient, parcel, str(failure))
                return True
            if not is_alone:
                return True
            self._health.succeeded(recipient.name)  # It is well: it need not be left alone for long.
        self._outcomes.failed(recipient, str(failure), failure.patience_ms if isinstance(failure, Refused) else None)
        return False

    async def _takes_empty_ones(self, recipient: Recipient) -> bool:
        """Whether it is what is sent, and not the server, that is at fault."""
        txn_id = self._randomness.letters(20)
        try:
            await self._client.send_transaction(
                recipient.name, txn_id, pdus=[], edus=[], origin_server_ts=self._clock.now()
            )
        except RemoteFailure:
            return False
        return True

    def _split(self, recipient: Recipient, parcel: Parcel, error: str) -> None:
        """Send less at once, or leave out what the server does not take even alone."""
        if parcel.ephemeral:
            log.info("a server refuses data that is not worth keeping", destination=recipient.name)
        if parcel.size == 1 and not parcel.ephemeral:
            self._leave_out(recipient, parcel, error)
            return
        recipient.progress.split(parcel)
        recipient.attempt = Attempt()
        if parcel.pdus:
            recipient.pending.fall_behind()
        if parcel.edus:
            recipient.pending.leave_edus()

    def _leave_out(self, recipient: Recipient, parcel: Parcel, error: str) -> None:
        [position] = parcel.pdus or parcel.edus
        log.warning(
            "a server refuses something so long that it is left out",
            destination=recipient.name,
            position=position,
            error=readable(error),
        )
        self._outcomes.conclude(recipient, parcel)
        # It takes all but this: what is new for it wakes it from now on.
        self._health.succeeded(recipient.name)
        recipient.progress.leave_out()
        skipped = Skipped(recipient.name, position, self._clock.now(), readable(error))
        self._ledger.note(recipient.progress.row, skipped=[skipped])


def _is_suspicious(recipient: Recipient, parcel: Parcel, failure: RemoteFailure) -> bool:
    """Whether it may be what was sent that is at fault."""
    if not parcel.size:
        return False
    if not isinstance(failure, Refused):
        return recipient.attempt.tries >= _SUSPICIOUS_SILENCE
    # A server that is busy (429) means all of it. One that is being looked into is known to be well.
    enough = _SUSPICIOUS if recipient.progress.row.at_most == MOST_PDUS else 1
    return failure.status != 429 and recipient.attempt.tries >= enough
