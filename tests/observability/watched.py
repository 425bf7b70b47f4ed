"""A watched ledger under load: the faults that tests cause, and the alerts that Prometheus shows."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import httpx
import psutil
import psycopg

from cli.supervision.supervisor import read_state
from ops.embedded.process import wait_until
from ops.observing.observatory import Observatory
from ops.observing.prometheus_part import PrometheusPart
from ops.run_state import RunState

PATIENCE_SECONDS: Final = 150.0
INTENTS_PER_BATCH: Final = 20
PAUSE_SECONDS: Final = 0.5
OF_THE_MACHINE: Final = {"LedgerlineDiskFillsSoon", "LedgerlineDiskNearlyFull"}
POSTED: Final = "sum(rate(ledgerline_posting_latency_seconds_count[10s])) > 0"


@dataclass
class Load:
    """A client that posts intents and reads balances all the time, whatever the answers are."""

    url: str
    key: str
    answers: dict[int, int] = field(default_factory=dict)
    """HTTP status -> count; 0 counts requests without an answer."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _number: int = 0

    def run(self) -> None:
        """Send a batch of intents and a read, then pause; repeat until `stop`."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=15.0) as client:
            while not self._stop.wait(PAUSE_SECONDS):
                self._ask(client, "POST", "/v1/intents/batch", json=[self._intent() for _ in range(INTENTS_PER_BATCH)])
                self._ask(client, "GET", "/v1/accounts/external:bank")

    def stop(self) -> None:
        """Stop after the request that is under way."""
        self._stop.set()

    def _ask(self, client: httpx.Client, method: str, path: str, **more: object) -> None:
        try:
            status = client.request(method, path, **more).status_code  # type: ignore[arg-type]
        except httpx.TransportError:
            status = 0
        self.answers[status] = self.answers.get(status, 0) + 1

    def _intent(self) -> dict[str, object]:
        self._number += 1
        return {
            "idempotency_key": f"watched-{self._number}",
            "type": "transfer",
            "legs": make_legs("external:bank", f"users:{self._number % 50}:wallet"),
        }


def make_legs(debit: str, credit: str) -> list[dict[str, object]]:
    """Return the two legs that move 1.00 EUR."""
    money = {"amount_minor": 100, "currency": "EUR"}
    return [
        {"account": debit, "direction": "debit", **money},
        {"account": credit, "direction": "credit", **money},
    ]


@dataclass
class Watched:
    """The objects that the tests of this folder share."""

    state: RunState
    observatory: Observatory
    load: Load

    @property
    def prometheus(self) -> PrometheusPart:
        """The server that must see the faults."""
        return self.observatory.prometheus

    @property
    def dsn(self) -> str:
        """The DSN of the database, as its owner."""
        assert self.state.endpoints is not None
        return self.state.endpoints.postgres_dsn

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        assert self.state.endpoints is not None
        return self.state.endpoints.kafka_bootstrap

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now, without the alerts about the machine's own disks."""
        return {alert.name for alert in self.prometheus.alerts()} - OF_THE_MACHINE

    def until_green(self) -> None:
        """Wait until no alert fires."""
        assert wait_until(lambda: not self.firing(), timeout_seconds=PATIENCE_SECONDS), self.firing()

    def until_posting(self) -> None:
        """Wait until intents are posted."""
        assert wait_until(lambda: bool(self.prometheus.query(POSTED)), timeout_seconds=PATIENCE_SECONDS)

    def until_firing(self, *alerts: str) -> None:
        """Wait until each of these alerts has fired, at the same time or one after the other."""
        missing = set(alerts)

        def seen() -> bool:
            missing.difference_update(self.firing())
            return not missing

        assert wait_until(seen, timeout_seconds=PATIENCE_SECONDS), f"{missing} did not fire, but {self.firing()}"

    def process(self, service: str) -> psutil.Process:
        """Return the current process of a service."""
        (instance,) = self._latest().instances(service)
        assert instance.pid is not None
        return psutil.Process(instance.pid)

    def kill(self, service: str) -> None:
        """Kill a service like a crash. Return when a new process of it is ready and was scraped."""
        before = self.process(service)
        started = f'process_start_time_seconds{{service="{service}"}} > {before.create_time() + 1.5}'
        before.kill()

        def is_back() -> bool:
            state = self._latest()
            (instance,) = state.instances(service)
            is_another = instance.condition == "ready" and instance.pid not in (None, before.pid)
            return is_another and bool(self.prometheus.query(started))

        assert wait_until(is_back, timeout_seconds=PATIENCE_SECONDS)

    def _latest(self) -> RunState:
        state = read_state(self.observatory.folder.parent.parent)
        assert state is not None
        return state

    def part(self, name: str) -> psutil.Process:
        """Return the process of an embedded server."""
        (pid,) = (part.pid for part in self.state.parts if part.name == name)
        assert pid is not None
        return psutil.Process(pid)

    def execute(self, *statements: str, past_triggers: bool = False) -> None:
        """Run statements as the database's owner, in one transaction. No service could run them."""
        with psycopg.connect(self.dsn) as connection:
            if past_triggers:
                connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Yield a client of the API that names a new idempotency key in each request."""

        def add_key(request: httpx.Request) -> None:
            request.headers["Idempotency-Key"] = str(uuid4())

        headers = {"Authorization": f"Bearer {self.load.key}"}
        hooks = {"request": [add_key]}
        with httpx.Client(base_url=self.load.url, headers=headers, timeout=15.0, event_hooks=hooks) as client:
            yield client

    def move(self, debit: str, credit: str) -> None:
        """Move 1.00 EUR from one account to another."""
        body = {"type": "transfer", "legs": make_legs(debit, credit)}
        with self.client() as client:
            answer = client.post("/v1/intents", json=body)
        assert answer.is_success, answer.text

    def schedule(self) -> None:
        """Make a schedule that is due at once, for a second time a day later, and so on."""
        body = {
            "name": "watched",
            "start": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "zone": "UTC",
            "rrule": "FREQ=DAILY",
            "intent": {"type": "transfer", "legs": make_legs("external:bank", "users:1:wallet")},
        }
        with self.client() as client:
            answer = client.post("/v1/schedules", json=body)
        assert answer.is_success, answer.text

    @contextmanager
    def locked(self, statement: str) -> Iterator[None]:
        """Hold the locks of a statement until the end of the block."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement)
            yield


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Stop processes and all their descendants (SIGSTOP), and let them go on at the end (SIGCONT)."""
    every = [member for process in processes for member in (process, *process.children(recursive=True))]
    _send(every, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(every, signal.SIGCONT)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            os.kill(process.pid, number)
