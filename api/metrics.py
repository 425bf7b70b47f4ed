"""The API's metrics. No label holds a user, an account or a key, so the number of series is bounded."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from producers import kafka_statistics
from runtime.metrics import BUILD

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


# Collectors of the whole process: there is one of each, however many applications the process makes.
_OF_THE_PROCESS: Final = (
    PROCESS_COLLECTOR,
    PLATFORM_COLLECTOR,
    GC_COLLECTOR,
    BUILD,
    kafka_statistics.QUEUE,
    kafka_statistics.RTT,
)


class PoolCollector(Collector):
    """Reads the statistics of a pool of connections at each scrape."""

    def __init__(self, statistics: Callable[[], Mapping[str, int]], queued: Callable[[], int] = lambda: 0) -> None:
        """`statistics`: psycopg_pool's own function. `queued`: the reads that wait for their turn at a connection."""
        self._statistics = statistics
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        """Yield the pool's connections, the requests that wait for one, and the total time waited, in seconds."""
        now = self._statistics()
        connections = GaugeMetricFamily(
            "ledgerline_postgres_pool_connections", "Connections of the pool.", labels=["state"]
        )
        idle = now["pool_available"]
        connections.add_metric(["idle"], idle)
        connections.add_metric(["busy"], now["pool_size"] - idle)
        yield connections
        yield GaugeMetricFamily(
            "ledgerline_postgres_pool_requests_waiting",
            "Requests that wait for a connection.",
            value=now.get("requests_waiting", 0) + self._queued(),
        )
        yield CounterMetricFamily(
            "ledgerline_postgres_pool_wait_seconds",
            "Time that requests have waited for a connection.",
            value=now.get("requests_wait_ms", 0) / 1000,
        )


class Metrics:
    """The metrics of one API process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in _OF_THE_PROCESS:
            self.registry.register(collector)
        requests = Counter(
            "ledgerline_api_requests",
            "Requests answered, by route template.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        request_seconds = Histogram(
            "ledgerline_api_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        intents = Counter(
            "ledgerline_api_intents",
            "Intents received, by result: accepted, replayed, refused (wrong form), conflict, failed (not confirmed).",
            ("result",),
            registry=self.registry,
        )
        # `labels` takes three times as long as the count itself. One entry is kept for each series that there is.
        self.requests = cache(requests.labels)
        self.request_seconds = cache(request_seconds.labels)
        self.intents = cache(intents.labels)
        self.in_flight = Gauge("ledgerline_api_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.waiting = Gauge(
            "ledgerline_api_requests_waiting", "Requests that wait for an outcome.", registry=self.registry
        )

        self.queued_reads = 0
        """Reads that wait only because all connections for reads are in use: api.shares lets no more come to a pool."""
        self.share_refusals = Counter(
            "ledgerline_api_share_refusals",
            "Requests refused because a share was used up, by share and by bound: key, tenant or all.",
            ("share", "bound"),
            registry=self.registry,
        )
        self.connections = Gauge("ledgerline_api_connections", "Connections that are open.", registry=self.registry)
        self.connections_ended = Counter(
            "ledgerline_api_connections_ended",
            "Connections that the API ended because a limit was exceeded, by cause.",
            ("cause",),
            registry=self.registry,
        )
        self.database_busy = Counter(
            "ledgerline_api_database_busy",
            "Queries for which Postgres was too busy, by cause.",
            ("cause",),
            registry=self.registry,
        )

    def watch_pool(self, statistics: Callable[[], Mapping[str, int]]) -> None:
        """Show the statistics of a pool of connections."""
        self.registry.register(PoolCollector(statistics, lambda: self.queued_reads))

    def make_exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
