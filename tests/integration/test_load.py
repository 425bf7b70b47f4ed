"""A small `make load`: real k6 against a real ledger, and the judge's verdict if a promise is broken."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from cli.context import Ledger
from domain.intents import compute_intent_id
from ops.embedded.stack import Endpoints
from runtime.settings import Settings
from tests.posting_bench import eventually
from tools.bench.http import api
from tools.bench.ledger import TENANT, bench_ledger
from tools.load.k6 import SCRIPTS, K6Error, k6_binary, run_k6
from tools.load.ledger import LoadLedger
from tools.load.runner import Result, run_suite
from tools.load.suites import SUITES, Plan, Suite

# The test machine may be busy, so nothing here depends on its speed.
PLAN: Final = Plan(posts_per_second=40, slowness=60)
SHORT: Final = {"RATE": 10, "BATCH_RATE": 1, "ITEMS": 5, "SECONDS": 3}
NOT_SETTLED: Final = "acknowledged, but not settled"


@pytest.fixture(scope="module")
def target(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadLedger]:
    """Yield a ledger of this module's own with every service that the promises need, reconciliation included."""
    home = tmp_path_factory.mktemp("load")
    with ExitStack() as running:
        ledger = running.enter_context(bench_ledger(stack))
        for name in ("relay", "reconciliation"):
            running.enter_context(ledger.service(name, LEDGERLINE_HOME=str(home)))
        running.enter_context(ledger.workers())
        client = running.enter_context(api(ledger))
        settings = Settings(home=home, topic_prefix=ledger.topics.prefix)
        kafka, registry = settings.make_kafka(stack.kafka_bootstrap), settings.make_registry(stack.registry_url)
        yield LoadLedger(Ledger(settings, kafka, ledger.dsn, registry, client.url), client.url, client.key)


def run(suite: Suite, target: LoadLedger, plan: Plan = PLAN) -> Result:
    return run_suite(suite, plan, target, lambda *_: None)


def short(**more: Any) -> Suite:
    return replace(SUITES["load"], scenarios=lambda _: {"posts": 1, "batches": 5}, variables=lambda _: SHORT | more)


def broken(result: Result) -> dict[str, str]:
    return {check.name: check.found for check in result.checks if not check.held}


def test_the_smoke_suite_holds(target: LoadLedger) -> None:
    result = run(SUITES["smoke"], target)
    assert broken(result) == {}
    assert result.held
    assert result.acknowledged == result.posted > 200
    assert result.http_ms.keys() == {"posts", "batches"}
    assert result.posted_seconds["p50"] > 0


@pytest.mark.long
def test_a_small_storm_and_a_small_hot_account_hold(target: LoadLedger) -> None:
    storm = replace(SUITES["idempotency_storm"], variables=lambda _: {"KEYS": 8, "CLIENTS": 24})
    assert broken(run(storm, target)) == {}
    hot = replace(SUITES["hot_account"], variables=lambda _: {"RATE": 10, "SECONDS": 3, "DRAWS": 60, "CLIENTS": 10})
    result = run(hot, target)
    assert broken(result) == {}
    assert result.rejected == 20


def test_an_acknowledged_intent_that_was_not_posted_is_named(target: LoadLedger) -> None:
    """The API acknowledges one intent and drops it, as an API would that answers before Kafka has the intent."""
    with liar(target.url) as (url, dropped):
        result = run(short(), replace(target, url=url))
    assert len(dropped) == 1
    assert not result.held
    assert broken(result)[NOT_SETTLED] == dropped[0]
    assert set(broken(result)) == {NOT_SETTLED, "settled within 300.0 s"}


def test_a_threshold_that_breaks_is_named(target: LoadLedger) -> None:
    """The limits are below a millisecond, so no answer is within them."""
    result = run(short(), target, PLAN._replace(slowness=0.001))
    assert not result.held
    assert "http_req_duration{scenario:posts}: p(95)<=0.5" in broken(result)["4 thresholds of k6"]
    assert broken(result)["settled within 0.0 s"] < "99.90%"
    assert NOT_SETTLED not in broken(result)


def test_k6_says_when_it_cannot_do_what_the_script_says(target: LoadLedger) -> None:
    with pytest.raises(K6Error, match=r"could not run load\.js .*Name the run"):
        run_k6("load.js", url=target.url, key=target.key, variables={"RUN": ""})


def test_k6_reports_to_nobody(target: LoadLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All outside traffic goes through the test's proxy; k6 does connect to the outside unless it is told not to."""
    with listening() as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        told = {"RUN": "quiet", "SECONDS": "1", "LONE_SECONDS": "1", "CLIENTS": "2"}
        run_k6("calibration.js", url=target.url, key=target.key, variables=told)
        assert asked == []
        environment = os.environ | told | {"RUN": "loud", "URL": target.url, "KEY": target.key}
        environment.pop("K6_NO_USAGE_REPORT", None)
        subprocess.run(
            [k6_binary(), "run", "--quiet", "--address", "127.0.0.1:0", str(SCRIPTS / "calibration.js")],
            env=environment, cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        eventually(lambda: asked != [], "k6 goes outside when it is not told to stay")
    assert all("grafana" in line for line in asked)


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests to the API, but answers the fifth single post itself."""

    protocol_version = "HTTP/1.1"

    def __init__(self, api_url: str, seen: list[str], dropped: list[str], *arguments: Any) -> None:
        self.api_url, self.seen, self.dropped = api_url, seen, dropped
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Idempotency-Key"] or ""
        if self.path == "/v1/intents":
            self.seen.append(key)
            if len(self.seen) == 5:
                self.dropped.append(key)
                self._answer(202, f'{{"intent_id": "{self._intent_id(key)}", "status": "pending"}}'.encode())
                return
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
        headers |= {"Idempotency-Key": key} if key else {}
        got = httpx.post(f"{self.api_url}{self.path}", content=body, headers=headers, timeout=60)
        self._answer(got.status_code, got.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _intent_id(self, key: str) -> UUID:
        return compute_intent_id(TENANT, key)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def liar(api_url: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of an API that drops one intent, and the list that gets the key of that intent."""
    dropped: list[str] = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Proxy, api_url, [], dropped))) as port:
        yield f"http://127.0.0.1:{port}", dropped


class _Listener(BaseHTTPRequestHandler):
    """Notes the requested addresses, and forwards nothing."""

    def __init__(self, asked: list[str], *arguments: Any) -> None:
        self.asked = asked
        super().__init__(*arguments)

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    def do_POST(self) -> None:
        self.do_CONNECT()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Listener, asked))) as port:
        yield port, asked


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
