"""Metrics that every agent has, and the little server that shows them; docs/METRICS.md documents each."""

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from threading import Thread
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

from runtime.metrics import show_age
from runtime.server_tls import ServerTls
from streams.batches import Place
from streams.lag import Lag

SECONDS_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RECORDS_BUCKETS: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)

_RECORDS: Final = Counter("ledgerline_agent_records", "Records processed and committed.", ["agent"])
_RETRIES: Final = Counter("ledgerline_agent_retries", "Attempts at a batch that an outage ended.", ["agent"])
_FENCES_LOST: Final = Counter(
    "ledgerline_agent_fences_lost", "Batches dropped because another worker had the lane.", ["agent"]
)
_BATCH_SECONDS: Final = Histogram(
    "ledgerline_agent_batch_seconds", "Time to process and commit one batch.", ["agent"], buckets=SECONDS_BUCKETS
)
_BATCH_RECORDS: Final = Histogram(
    "ledgerline_agent_batch_records", "Records in one batch.", ["agent"], buckets=RECORDS_BUCKETS
)
_LAG_RECORDS: Final = Gauge(
    "ledgerline_agent_lag_records", "Records of the partition not yet processed.", ["agent", "partition"]
)
_LAG_SECONDS: Final = Gauge(
    "ledgerline_agent_lag_seconds", "How long the oldest record not yet processed has waited.", ["agent", "partition"]
)
_PARTITIONS: Final = Gauge("ledgerline_agent_partitions", "Partitions that this worker has.", ["agent"])


class AgentMetrics:
    """The metrics of one agent, its name already in the label."""

    def __init__(self, agent: str, name_place: Callable[[Place], str] = str) -> None:
        """`name_place` returns the label of a partition, such as AgentOptions.name_place."""
        self._agent = agent
        self._name_place = name_place
        self._shown: set[str] = set()
        self.records = _RECORDS.labels(agent)
        self.retries = _RETRIES.labels(agent)
        self.fences_lost = _FENCES_LOST.labels(agent)
        self.batch_seconds = _BATCH_SECONDS.labels(agent)
        self.batch_records = _BATCH_RECORDS.labels(agent)
        self.partitions = _PARTITIONS.labels(agent)

    def show_lags(self, lags: Mapping[Place, Lag]) -> None:
        """Show the lag of each partition that the agent has, and remove other partitions: another worker shows them."""
        named = {self._name_place(place): lag for place, lag in lags.items()}
        for partition in self._shown - named.keys():
            for gauge in (_LAG_RECORDS, _LAG_SECONDS):
                gauge.remove(self._agent, partition)
        for partition, lag in named.items():
            _LAG_RECORDS.labels(self._agent, partition).set(lag.records)
            show_age(_LAG_SECONDS.labels(self._agent, partition), lag.since_seconds)
        self._shown = set(named)


def serve_metrics(host: str, port: int, ready: Callable[[], str | None], tls: ServerTls | None = None) -> int:
    """Serve /metrics, /livez and /readyz from a daemon thread; return the port, a free one if `port` is 0.

    `ready` returns None if the agent is ready, else a sentence that says what is missing. With `tls`, serve HTTPS only.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
            elif self.path == "/livez":
                self._answer(200, b"alive\n")
            elif self.path == "/readyz":
                missing = ready()
                self._answer(200 if missing is None else 503, (missing or "ready").encode() + b"\n")
            else:
                self._answer(404, b"/metrics, /livez or /readyz\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: a scrape is not worth a line."""

    server = ThreadingHTTPServer((host, port), Handler)
    if tls is not None:
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate_file, tls.key_file)
        # Each connection does its TLS handshake in its own thread, so that a silent client does not block the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])
