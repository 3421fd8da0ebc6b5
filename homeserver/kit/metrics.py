"""Prometheus metrics, one registry for each server object so that several can live in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Every metric of the server, named in one place."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "homeserver_requests", "Requests answered.", ["method", "endpoint", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "homeserver_request_seconds",
            "Time to answer a request.",
            ["method", "endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events_persisted = Counter("homeserver_events_persisted", "Events written.", registry=self.registry)
        self.commit_seconds = Histogram(
            "homeserver_commit_seconds", "Time of one commit of events.", buckets=_SECONDS, registry=self.registry
        )
        self.commit_events = Histogram(
            "homeserver_commit_events",
            "Events in one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200),
            registry=self.registry,
        )
        self.transactions_received = Counter(
            "homeserver_federation_transactions_received",
            "Deliveries of other servers.",
            ["outcome"],
            registry=self.registry,
        )
        self.pdus_received = Counter(
            "homeserver_federation_pdus_received",
            "Events that other servers delivered, by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.staged_pdus = Gauge(
            "homeserver_federation_staged_pdus",
            "Events that were acknowledged and wait to be taken in.",
            registry=self.registry,
        )
        self.gaps = Counter(
            "homeserver_federation_gaps",
            "Searches for what is missing in a room.",
            ["outcome"],
            registry=self.registry,
        )
        self.backfills = Counter(
            "homeserver_federation_backfills",
            "Fetches of rooms' history.",
            ["outcome"],
            registry=self.registry,
        )
        self.edus_received = Counter(
            "homeserver_federation_edus_received",
            "What other servers told besides events.",
            ["edu_type", "outcome"],
            registry=self.registry,
        )
        self.federation_transactions = Counter(
            "homeserver_federation_transactions",
            "Transactions sent to other servers, by what came of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.federation_pdus = Counter(
            "homeserver_federation_pdus_sent", "Events that other servers took.", registry=self.registry
        )
        self.federation_edus = Counter(
            "homeserver_federation_edus_sent", "Data other than events that other servers took.", registry=self.registry
        )
        self.federation_edus_dropped = Counter(
            "homeserver_federation_edus_dropped",
            "Data that is not sent to other servers, as something newer is, or as too much of it waits.",
            ["reason"],
            registry=self.registry,
        )
        self.destinations = Gauge(
            "homeserver_federation_destinations",
            "Servers to which something was sent: those that keep up, are catching up, or are not taking anything.",
            ["state"],
            registry=self.registry,
        )
        self.oldest_backlog = Gauge(
            "homeserver_federation_oldest_backlog_seconds",
            "For how long something has been waiting for servers, at most, by the state of the server.",
            ["state"],
            registry=self.registry,
        )
        self.edus_waiting = Gauge(
            "homeserver_federation_edus_waiting",
            "Data other than events that waits for other servers.",
            registry=self.registry,
        )
        self.requests_sent = Counter(
            "homeserver_federation_requests_sent",
            "Requests to other servers, without those for pages elsewhere, by what came of them.",
            ["operation", "outcome"],
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "homeserver_federation_first_byte_seconds",
            "Time from sending a request to another server to the beginning of its answer.",
            ["operation"],
            buckets=(*_SECONDS, 30, 60),
            registry=self.registry,
        )
        self.requests_under_way = Gauge(
            "homeserver_federation_requests_under_way",
            "Requests to other servers that are under way, or wait for their turn.",
            registry=self.registry,
        )
        self.connections = Gauge(
            "homeserver_federation_connections", "Open connections to other servers.", ["state"], registry=self.registry
        )
        self.partial_rooms = Gauge(
            "homeserver_partial_rooms", "Rooms whose state is known in part.", registry=self.registry
        )
        self.state_events_fetched = Counter(
            "homeserver_state_events_fetched",
            "Events of rooms that are known in part that were verified and stored.",
            registry=self.registry,
        )
        self.waiting = Gauge("homeserver_waiting_requests", "Long polls held open now.", registry=self.registry)

    def answered(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        series = self._series.get((method, endpoint, status))
        if series is None:
            # To find a series by its labels takes longer than to count in it.
            series = (
                self.requests.labels(method, endpoint, status),
                self.request_seconds.labels(method, endpoint),
            )
            self._series[method, endpoint, status] = series
        count, duration = series
        count.inc()
        duration.observe(seconds)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
