"""Single posts through the real API with k6: how many a second, and how long they take at a fixed rate."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from db.access import Scope, add_key
from db.connections import connect
from domain.errors import LedgerlineError
from domain.settings import REPOSITORY_ROOT
from ops.bench.ledger import TENANT, BenchLedger
from ops.embedded.stack import Endpoints

SCRIPT: Final = REPOSITORY_ROOT / "ops" / "k6" / "single_posts.js"
RUN_SECONDS: Final = 15
FIXED_RATE: Final = 200
READY_SECONDS_MAX: Final = 60.0
REQUESTS_PER_MINUTE: Final = 10_000_000


class HttpFigures(NamedTuple):
    """Requests a second with 16 connections that never rest, and milliseconds at FIXED_RATE a second."""

    requests_per_second: float
    p95_ms_flat_out: float
    p95_ms: float
    median_ms: float


class MissingK6(LedgerlineError):
    """k6 is not installed."""


def measure_http(endpoints: Endpoints) -> HttpFigures:
    """Run k6 twice against one API process of a ledger of its own, with the posting worker running beside it."""
    ledger = BenchLedger(endpoints)
    with connect(ledger.dsn, "ledgerline_operator", autocommit=True) as connection:
        _, key = add_key(connection, TENANT, "bench", list(Scope), REQUESTS_PER_MINUTE)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with ledger.service("posting"), ledger.service("api", LEDGERLINE_API_PORT=str(port)):
        _wait_ready(url)
        _k6(url, key, VUS="4", SECONDS="3")  # warms the process
        flat_out = _k6(url, key, VUS="16", SECONDS=str(RUN_SECONDS))
        steady = _k6(url, key, RATE=str(FIXED_RATE), SECONDS=str(RUN_SECONDS))
    ledger.drop()
    return HttpFigures(
        flat_out["http_reqs"]["rate"],
        flat_out["http_req_duration"]["p(95)"],
        steady["http_req_duration"]["p(95)"],
        steady["http_req_duration"]["med"],
    )


def _k6(url: str, key: str, **variables: str) -> dict[str, Any]:
    """The metrics of one run; fails where an answer was not 202."""
    binary = shutil.which("k6", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        raise MissingK6("k6 is not installed: run `make install`, which brings it.")
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        options = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        subprocess.run(
            [binary, "run", "--quiet", "--no-usage-report", "--summary-export", str(summary), *options, str(SCRIPT)],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"URL": url, "KEY": key},
        )
        metrics: dict[str, Any] = json.loads(summary.read_text())["metrics"]
        return metrics


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # between two looks at a condition
    raise TimeoutError("the API was not ready in time: see its log above")
