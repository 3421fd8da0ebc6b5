"""What came of a transaction: how far the server has got, how it goes, and when it is tried again."""

import structlog

from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.recipients import Attempt, Recipient
from homeserver.consumers.federation.turns import Turns
from homeserver.errors import Refused, RemoteFailure
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.outbound.destinations import Destinations, Health
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.outbound.operations.transactions import Received
from homeserver.storage.destinations import Parcel

DOWN_AFTER = 3
"""A server that failed so often is called down, and what is ephemeral is not kept for it."""
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
            recipient.pending.end_edus(parcel.edus[-1])
            self._ledger.note(recipient.progress.row, edus=parcel.edus)
        recipient.progress.end(parcel)
        recipient.attempt = Attempt()
        recipient.age.conclude(is_waiting=recipient.pending.is_any or self._ephemeral.has(recipient.name))

    def delivered(self, recipient: Recipient, parcel: Parcel, answer: Received) -> None:
        """The server has taken a transaction."""
        self._metrics.federation_transactions.labels("delivered").inc()
        self._metrics.federation_pdus.inc(len(parcel.pdus))
        self._metrics.federation_edus.inc(len(parcel.edus) + len(parcel.ephemeral))
        now = self._clock.now()
        health = self._health.succeeded(recipient.name)
        self._ephemeral.deaf.discard(recipient.name)
        self.conclude(recipient, parcel)
        recipient.progress.succeed(now, was_failing=health is not None)
        self._log_success(recipient, answer, health, now)

    def count_failure(self, failure: RemoteFailure) -> None:
        """A transaction was not taken, whoever is at fault."""
        outcome = "refused" if isinstance(failure, Refused) else "unreachable"
        self._metrics.federation_transactions.labels(outcome).inc()

    def failed(self, recipient: Recipient, error: str, patience_ms: float | None = None) -> None:
        """The server did not take a transaction: it is left alone for a while."""
        health = self._health.failed(recipient.name, readable(error), patience_ms=patience_ms)
        recipient.pending.fall_behind()
        recipient.progress.fail(health)
        self._ledger.note(recipient.progress.row)
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
