"""What the API measures. No user, account or key stands in a label, so the number of series is bounded."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one API process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ledgerline_api_requests",
            "Requests answered, by route template.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "ledgerline_api_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.intents = Counter(
            "ledgerline_api_intents",
            "Intents received, by result: accepted, replayed, refused (for their shape), conflict, failed (Kafka).",
            ("result",),
            registry=self.registry,
        )
        self.in_flight = Gauge("ledgerline_api_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.waiting = Gauge(
            "ledgerline_api_requests_waiting", "Requests that wait for an outcome.", registry=self.registry
        )

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
