"""Webhooks: intents at a steady pace, each delivered to one of many endpoints; then beside a dead and a slow one."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from statistics import quantiles
from typing import Final, NamedTuple

import httpx
import psycopg

from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from tools.bench.figures import Figure
from tools.bench.ledger import STOP_SECONDS_MAX, TENANT, WAIT_SECONDS_MAX, BenchFault, BenchLedger, bench_ledger
from tools.bench.loads import Load
from tools.bench.posting import Report
from tools.bench.processor_time import microseconds_each, used_since

ENDPOINTS: Final = 200
EACH: Final = 2
"""The endpoints that want one record, as a tenant has several."""
PER_SECOND: Final = 1000
SECONDS: Final = 20
WARM_SECONDS: Final = 5
TICK_SECONDS: Final = 0.05
RATIO_P95_MAX: Final = 1.5
"""The others' p95 beside the dead and the slow endpoint, over that without them; two runs without differ by a third."""

_ADD: Final = """
INSERT INTO webhooks.endpoint (
    tenant, endpoint_id, url, description, filters, accounts, ordered, secret, created_key, created_digest,
    created_time, changed_time
) VALUES (%s, %s, %s, '', '{ledger.posted}', ARRAY[%s], false, %s, %s, '', 0, 0)
"""


class Window(NamedTuple):
    """What one run delivered to the endpoints that answer at once."""

    latencies_ms: list[float]
    seconds: float
    processor_us: dict[str, float]

    @property
    def per_second(self) -> float:
        """Deliveries a second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def p95_ms(self) -> float:
        """The latency from the commit of the posting to the arrival, of 95 percent."""
        return quantiles(self.latencies_ms, n=100)[94]


def measure_webhooks(endpoints: Endpoints, report: Report) -> list[Figure]:
    """Deliver PER_SECOND webhooks a second to ENDPOINTS endpoints, first without and then with two bad ones."""
    with ExitStack() as running:
        ledger = running.enter_context(bench_ledger(endpoints))
        url = running.enter_context(_receiver())
        closed = running.enter_context(_closed_port())
        _add_endpoints(ledger, [f"{url}/fast/{number}" for number in range(ENDPOINTS)])
        running.enter_context(ledger.workers())
        running.enter_context(ledger.service("relay"))
        running.enter_context(ledger.service("worker", LEDGERLINE_CALLS_PRIVATE_ADDRESSES="true"))
        _run(ledger, url, WARM_SECONDS, 1.0)
        alone = _run(ledger, url, SECONDS, 1.0)
        report(f"webhooks alone: {_tell(alone)}")
        _replace(ledger, {f"{url}/fast/0": f"http://127.0.0.1:{closed}/dead", f"{url}/fast/1": f"{url}/slow/1"})
        beside = _run(ledger, url, SECONDS, (ENDPOINTS - 2) / ENDPOINTS)
        report(f"webhooks beside a dead and a slow endpoint: {_tell(beside)}")
    detail = {"alone": alone._replace(latencies_ms=[])._asdict(), "beside": beside._replace(latencies_ms=[])._asdict()}
    return [
        Figure(
            "webhooks", f"webhooks, each record to {EACH} of {ENDPOINTS} endpoints", alone.per_second, "/s",
            0.95 * PER_SECOND, detail=detail | {"processor_us_per_intent": alone.processor_us},
        ),
        Figure(
            "webhooks_beside_bad", "their p95 beside a dead and a slow endpoint", beside.p95_ms, "ms", RATIO_P95_MAX,
            is_ceiling=True, limit=alone.p95_ms, ratio=beside.p95_ms / alone.p95_ms, detail=detail,
        ),
    ]  # fmt: skip


def _tell(window: Window) -> str:
    latencies = sorted(window.latencies_ms)
    return f"{window.per_second:,.0f}/s, p50 {latencies[len(latencies) // 2]:,.0f} ms, p95 {window.p95_ms:,.0f} ms"


def _run(ledger: BenchLedger, url: str, seconds: float, share: float) -> Window:
    """Send intents for PER_SECOND webhooks a second, and wait until that share of the webhooks has come.

    Raise BenchFault if they do not come in time.
    """
    load = Load("webhooks", cycle((f"assets:a{number}:x", "assets:sink") for number in range(ENDPOINTS // EACH)))
    httpx.get(f"{url}/seen")
    before, started = ledger.processor_time.seconds(), time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - started) < seconds:
        due = math.ceil(elapsed * PER_SECOND / EACH)
        if due > sent:
            ledger.send(load, due - sent)
            sent = due
        time.sleep(TICK_SECONDS)
    latencies: list[float] = []
    wanted = int(sent * EACH * share) - 1

    def have_come() -> bool:
        latencies.extend(httpx.get(f"{url}/seen").json()["fast"])
        return len(latencies) >= wanted

    if not wait_until(have_come, timeout_seconds=WAIT_SECONDS_MAX):
        raise BenchFault(f"Only {len(latencies):,} of {wanted:,} webhooks came in time: see the worker's log above.")
    taken = time.monotonic() - started
    used = used_since(before, ledger.processor_time.seconds())
    return Window(latencies, taken, microseconds_each(used, sent * EACH))


def _add_endpoints(ledger: BenchLedger, urls: Sequence[str]) -> None:
    with psycopg.connect(ledger.dsn) as connection:
        rows = [
            (TENANT, uuid.uuid4(), url, f"assets:a{number // EACH}:*", os.urandom(32), f"bench-{number}")
            for number, url in enumerate(urls)
        ]
        connection.cursor().executemany(_ADD, rows)


def _replace(ledger: BenchLedger, urls: dict[str, str]) -> None:
    with psycopg.connect(ledger.dsn) as connection:
        for old, new in urls.items():
            connection.execute("UPDATE webhooks.endpoint SET url = %s WHERE url = %s", (new, old))


@contextmanager
def _receiver() -> Iterator[str]:
    """Run the receiver; yield its URL."""
    command = [sys.executable, "-m", "tools.bench.receiver"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS_MAX)


@contextmanager
def _closed_port() -> Iterator[int]:
    """Hold a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
