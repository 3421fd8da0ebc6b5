"""What came of a transaction: how far the server has got, how it goes, and when it is tried again."""

import structlog
from msgspec.structs import replace

from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.recipients import Recipient
from homeserver.consumers.federation.turns import Turns
from homeserver.errors import Refused, RemoteFailure
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.outbound.destinations import Destinations, Health
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.outbound.operations.transactions import Received
from homeserver.storage.destinations import MOST_PDUS, Destination, Parcel

DOWN_AFTER = 3
"""A server that failed so often is called down, and what is ephemeral is not kept for it."""
_GROW_AFTER = 3
_NOTE_SUCCESS_MS = 60_000
_LONGEST = 500

log = structlog.get_logger()


class Outcomes:
    """Keeps how it went with servers."""

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        health: Destinations,
        ephemeral: Ephemeral,
        ledger: Ledger,
        turns: Turns,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._ephemeral = ephemeral
        self._ledger = ledger
        self._turns = turns

    def conclude(self, recipient: Recipient, parcel: Parcel) -> None:
        """The server has this, or is not to have it."""
        if parcel.edus:
            recipient.edus_after = parcel.edus[-1]
            self._ledger.note(recipient.row, edus=parcel.edus)
        upto = max(recipient.row.delivered, parcel.upto)
        recipient.row = replace(recipient.row, delivered=upto, txn=None, txn_id=None)
        recipient.is_dirty = recipient.is_dirty or bool(parcel.pdus or parcel.edus)
        recipient.tries = 0
        if recipient.packed_all_at is not None:
            # Whatever there is for it now came later.
            is_waiting = (
                recipient.queue or recipient.is_behind or recipient.has_edus or self._ephemeral.has(recipient.name)
            )
            recipient.waiting_since = recipient.packed_all_at if is_waiting else None
            recipient.packed_all_at = None

    def delivered(self, recipient: Recipient, parcel: Parcel, answer: Received) -> None:
        """The server has taken a transaction."""
        self._metrics.federation_transactions.labels("delivered").inc()
        self._metrics.federation_pdus.inc(len(parcel.pdus))
        self._metrics.federation_edus.inc(len(parcel.edus) + len(parcel.ephemeral))
        now = self._clock.now()
        health = self._health.succeeded(recipient.name)
        self._ephemeral.deaf.discard(recipient.name)
        self.conclude(recipient, parcel)
        recipient.row = _well(recipient.row, now=now, at_most=_grown(recipient))
        if health is not None or now - recipient.noted_success_ts > _NOTE_SUCCESS_MS:
            recipient.is_dirty = True
        if recipient.is_dirty:
            recipient.noted_success_ts = now
        self._log_success(recipient, answer, health, now)

    def count_failure(self, failure: RemoteFailure) -> None:
        """A transaction was not taken, whoever is at fault."""
        outcome = "refused" if isinstance(failure, Refused) else "unreachable"
        self._metrics.federation_transactions.labels(outcome).inc()

    def failed(self, recipient: Recipient, error: str, patience_ms: float | None = None) -> None:
        """The server did not take a transaction: it is left alone for a while."""
        health = self._health.failed(recipient.name, readable(error), patience_ms=patience_ms)
        recipient.fall_behind()
        recipient.row = replace(
            recipient.row,
            failures=health.failures,
            failing_since_ts=health.since_ts,
            next_retry_ts=health.next_retry_ts,
            last_attempt_ts=health.last_attempt_ts,
            error=health.error,
        )
        self._ledger.note(recipient.row)
        self._turns.leave_alone(recipient, health)
        if health.failures == DOWN_AFTER:
            log.warning(
                "a server does not take what is sent to it",
                destination=recipient.name,
                error=health.error,
                next_attempt_s=(health.next_retry_ts - self._clock.now()) // 1000,
            )
        if health.failures >= DOWN_AFTER:
            self._ephemeral.forget(recipient.name)

    def _log_success(self, recipient: Recipient, answer: Received, health: Health | None, now: int) -> None:
        if health is not None and health.failures >= DOWN_AFTER:
            after_s = (now - health.since_ts) // 1000
            log.info("a server takes again what is sent to it", destination=recipient.name, after_s=after_s)
        refused = {event_id: one["error"] for event_id, one in answer.pdus.items() if one.get("error")}
        if refused:
            event_id, error = next(iter(refused.items()))
            log.info(
                "a server took a transaction and refused events of it",
                destination=recipient.name,
                events=len(refused),
                event_id=readable(event_id),
                error=readable(str(error)),
            )


def readable(error: str) -> str:
    """What another server may have written, so that it can be stored and shown."""
    text = error[:_LONGEST].encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _well(row: Destination, *, now: int, at_most: int) -> Destination:
    return replace(
        row,
        at_most=at_most,
        failures=0,
        failing_since_ts=None,
        next_retry_ts=None,
        error="",
        last_success_ts=now,
        last_attempt_ts=now,
    )


def _grown(recipient: Recipient) -> int:
    """How much may be in one transaction, now that one more was taken."""
    if recipient.row.at_most == MOST_PDUS:
        return MOST_PDUS
    recipient.good += 1
    if recipient.good < _GROW_AFTER:
        return recipient.row.at_most
    recipient.good = 0
    return min(MOST_PDUS, 2 * recipient.row.at_most)
