"""HTTP with k6 against one API process: batches into Kafka as fast as possible, and single posts at a fixed rate.

k6 runs on the same cores. Each figure has k6's share of them in its detail.
"""

import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpx

from db.access import Scope, add_key
from db.connections import connect
from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from tools.bench.figures import Figure
from tools.bench.ledger import TENANT, BenchFault, BenchLedger, bench_ledger
from tools.bench.posting import Report
from tools.bench.processor_time import microseconds_each, used_since
from tools.bench.rounds import require_posted
from tools.load.k6 import run_k6

RUN_SECONDS: Final = 15
WARM_SECONDS: Final = 4
READY_SECONDS_MAX: Final = 60.0
REQUESTS_PER_MINUTE: Final = 10_000_000

BATCH_ITEMS: Final = 1000
BATCH_CLIENTS: Final = 8
BATCH_INTENTS_MIN: Final = 15_000.0
SINGLE_RATE: Final = 500
ACCEPTED_MS_MAX: Final = 25.0
POSTED_MS_MAX: Final = 150.0
WAIT_SECONDS: Final = 10
# Below this rate the generator is too slow, and the latency is not the one to measure.
SINGLE_RATE_MIN: Final = 0.98 * SINGLE_RATE


class Client(NamedTuple):
    """The address of the API, and an API key."""

    url: str
    key: str


class Run(NamedTuple):
    """One run of k6: its metrics, and the processor time that all processes used meanwhile."""

    metrics: Mapping[str, Mapping[str, Any]]
    seconds: float
    processor_seconds: dict[str, float]

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return int(self.metrics["http_reqs"]["count"])

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return float(self.metrics["http_reqs"]["rate"])

    def milliseconds(self, which: str) -> float:
        """Return a value of the duration's distribution, such as `p(95)` or `med`."""
        return float(self.metrics["http_req_duration"][which])

    def detail(self, intents: int) -> dict[str, Any]:
        """Return the data that explain the run. `generator_share` is the share of one core that k6 used."""
        return {
            "median_ms": self.milliseconds("med"),
            "p95_ms": self.milliseconds("p(95)"),
            "p99_ms": self.milliseconds("p(99)"),
            "generator_share": self.processor_seconds["k6"] / self.seconds,
            "processor_us_per_intent": microseconds_each(self.processor_seconds, intents),
        }


def measure_http(endpoints: Endpoints, report: Report) -> list[Figure]:
    """Measure batches without a worker, as that figure ends at Kafka, and single posts with one worker."""
    with bench_ledger(endpoints) as ledger, api(ledger) as client:
        batches = _batches(ledger, client)
    intents = batches.requests * BATCH_ITEMS
    report(f"HTTP: {batches.rate * BATCH_ITEMS:,.0f} intents/s in batches, {batches.milliseconds('p(95)'):.0f} ms each")
    with bench_ledger(endpoints) as ledger, ledger.workers(), api(ledger) as client:
        warm = _singles(ledger, client, WARM_SECONDS, RATE="200", WAIT=str(WAIT_SECONDS))
        accepted = _singles(ledger, client, RUN_SECONDS)
        report(f"HTTP: p95 {accepted.milliseconds('p(95)'):.1f} ms to 202 at {accepted.rate:.0f} posts/s")
        posted = _singles(ledger, client, RUN_SECONDS, WAIT=str(WAIT_SECONDS))
        report(f"HTTP: p95 {posted.milliseconds('p(95)'):.1f} ms to posted at {posted.rate:.0f} posts/s")
        sent = warm.requests + accepted.requests + posted.requests
        _require_posted_soon(ledger, sent)
    return [
        Figure(
            "http_batch",
            f"HTTP batches of {BATCH_ITEMS:,} into Kafka, 1 API process",
            batches.rate * BATCH_ITEMS,
            "/s",
            BATCH_INTENTS_MIN,
            detail=batches.detail(intents),
        ),
        _latency("http_accepted", "to 202", accepted, ACCEPTED_MS_MAX),
        _latency("http_posted", "to posted (Prefer: wait)", posted, POSTED_MS_MAX),
    ]


def _latency(key: str, until: str, run: Run, reach_ms: float) -> Figure:
    name = f"HTTP single posts, {SINGLE_RATE} /s: p95 {until}"
    detail = run.detail(run.requests) | {"rate": run.rate}
    return Figure(
        key, name, run.milliseconds("p(95)"), "ms", reach_ms, is_ceiling=True, detail=detail,
        also=run.rate >= SINGLE_RATE_MIN,
    )  # fmt: skip


@contextmanager
def api(ledger: BenchLedger) -> Iterator[Client]:
    """Start one API process and wait until it is ready. Its key has all scopes and is never throttled."""
    with connect(ledger.dsn, "ledgerline_operator", autocommit=True) as connection:
        _, key = add_key(connection, TENANT, "bench", list(Scope), REQUESTS_PER_MINUTE)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with ledger.service("api", LEDGERLINE_API_PORT=str(port)):
        if not wait_until(is_ready, timeout_seconds=READY_SECONDS_MAX):
            raise BenchFault("The API was not ready in time: see its log above.")
        yield Client(url, key)


def _batches(ledger: BenchLedger, client: Client) -> Run:
    """Send batches with BATCH_CLIENTS clients without pause. Raise BenchFault unless Kafka has every intent."""
    sizes = {"ITEMS": str(BATCH_ITEMS), "VUS": str(BATCH_CLIENTS)}
    _k6(ledger, client, "batch_posts.js", SECONDS=str(WARM_SECONDS), **sizes)
    before = ledger.on_topic()
    run = _k6(ledger, client, "batch_posts.js", SECONDS=str(RUN_SECONDS), **sizes)
    gained = ledger.on_topic() - before
    if gained != run.requests * BATCH_ITEMS:
        raise BenchFault(f"Kafka has {gained:,} intents of {run.requests:,} batches of {BATCH_ITEMS:,}.")
    return run


def _singles(ledger: BenchLedger, client: Client, seconds: int, **variables: str) -> Run:
    return _k6(ledger, client, "single_posts.js", **{"SECONDS": str(seconds), "RATE": str(SINGLE_RATE)} | variables)


def _require_posted_soon(ledger: BenchLedger, intents: int) -> None:
    ledger.sent = intents
    ledger.wait_posted()
    require_posted(ledger, {}, intents)


def _k6(ledger: BenchLedger, client: Client, script: str, **variables: str) -> Run:
    """Run k6 once. Raise BenchFault if an answer had a wrong status."""
    before = ledger.processor_time.seconds()
    named = {"RUN": f"bench-{secrets.token_hex(4)}", **variables}
    run = run_k6(script, url=client.url, key=client.key, variables=named)
    if run.broken:
        raise BenchFault(f"k6 had other answers than it should ({'; '.join(run.broken)}): see the API's log above.")
    used = used_since(before, ledger.processor_time.seconds())
    return Run(run.metrics, run.seconds, {**used, "k6": run.processor_seconds})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
