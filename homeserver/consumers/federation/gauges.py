"""How it goes with other servers, in metrics: by state, never by server, of which there may be thousands."""

from collections.abc import Callable, Iterator

from homeserver.consumers.federation.recipients import Recipient, Recipients
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.outbound.destinations import Destinations

LIVE = "live"
CATCHING_UP = "catching up"
BACKING_OFF = "backing off"


class Gauges:
    """Looks at the servers whenever somebody reads the metrics."""

    def __init__(self, clock: Clock, health: Destinations, recipients: Recipients) -> None:
        self._clock = clock
        self._health = health
        self._recipients = recipients

    def show(self, metrics: Metrics) -> None:
        """Have these metrics show the servers, in the place of those of an earlier run."""
        for state in (LIVE, CATCHING_UP, BACKING_OFF):
            metrics.destinations.labels(state).set_function(self._counter(state))
            metrics.oldest_backlog.labels(state).set_function(self._ageing(state))

    def _counter(self, state: str) -> Callable[[], float]:
        return lambda: sum(1 for _ in self._in(state))

    def _ageing(self, state: str) -> Callable[[], float]:
        return lambda: max((self._age_s(recipient) for recipient in self._in(state)), default=0.0)

    def _in(self, state: str) -> Iterator[Recipient]:
        return (recipient for recipient in self._recipients if self._state(recipient) == state)

    def _state(self, recipient: Recipient) -> str:
        if self._health.find(recipient.name) is not None:
            return BACKING_OFF
        return CATCHING_UP if recipient.pending.is_behind else LIVE

    def _age_s(self, recipient: Recipient) -> float:
        health = self._health.find(recipient.name)
        if health is not None:
            # Known from before this server was started.
            return max(0, self._clock.now() - health.since_ts) / 1000
        return 0.0 if recipient.age.since is None else self._clock.monotonic() - recipient.age.since
