"""The base of a chaos run: the embedded parts, proxies before them, and the processes of one ledger after another.

    posting, api, worker, provers --> a Kafka proxy and a Postgres proxy for each of these groups --> Kafka, Postgres

The load and the oracle connect to the parts directly, so that they see the true state when a proxy cuts connections.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from psycopg.conninfo import make_conninfo

from ops.embedded.ports import LOOPBACK, pick_free
from ops.embedded.stack import EmbeddedStack, Endpoints
from runtime.key_files import ensure_posting_key
from tools.chaos.instance import Fleet, Instance
from tools.chaos.ledger import LANES, ChaosLedger
from tools.chaos.proxy import Proxy

GROUPS: Final = ("posting", "api", "worker", "proving")
"""The services of one group share a Kafka proxy and a Postgres proxy; all others are `proving`."""

COUNTS: Final = {"posting": 2, "relay": 1, "worker": 1, "reconciliation": 1, "audit": 1, "api": 2}
_POSTGRES_SETTINGS: Final = {
    # The oracle orders the lanes' transactions by the commit timestamp.
    "track_commit_timestamp": "on",
    "max_connections": "80",
    "deadlock_timeout": "'200ms'",
}
_VARIABLES: Final = {
    "LEDGERLINE_LANES": str(LANES),
    "LEDGERLINE_POSTING_BATCH_INTENTS_MAX": "500",
    "LEDGERLINE_RELAY_BATCH_RECORDS_MAX": "500",
    "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "1",
    "LEDGERLINE_AUDIT_SWEEP_SECONDS": "1",
    "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "2",
    "LEDGERLINE_API_REQUESTS_PER_MINUTE": "1000000",
    "PYTHONUNBUFFERED": "1",
}


def group_of(service: str) -> str:
    """Return the group whose proxies a service uses."""
    return service if service in GROUPS else "proving"


class Deployment:
    """The parts and their proxies, for a whole run; a context manager."""

    def __init__(self, folder: Path, cache: Path, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.report = report
        self._numbers = itertools.count()
        listeners: dict[str, tuple[int, int]] = {}
        self.kafka: dict[str, Proxy] = {}
        self.postgres: dict[str, Proxy] = {}
        for group in GROUPS:
            port = pick_free()
            self.kafka[group] = Proxy((LOOPBACK, port))
            listeners[group.upper()] = (port, self.kafka[group].port)
        self.stack = EmbeddedStack(
            folder / "stack",
            cache=cache,
            report=report,
            kafka_listeners=listeners,
            postgres_settings=_POSTGRES_SETTINGS,
        )
        self.endpoints: Endpoints

    def __enter__(self) -> "Deployment":
        self.endpoints = self.stack.start()
        ensure_posting_key(self.folder / "home")
        for group in GROUPS:
            self.postgres[group] = Proxy((LOOPBACK, self.stack.postgres.port))
        for proxy in self.proxies:
            proxy.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies:
            proxy.close()
        self.stack.stop()

    @property
    def proxies(self) -> list[Proxy]:
        """All proxies."""
        return [*self.kafka.values(), *self.postgres.values()]

    def open_ledger(self) -> ChaosLedger:
        """Create an empty ledger with its own database and topics."""
        return ChaosLedger.open(self.endpoints, f"chaos{next(self._numbers)}")

    def fleet(self, ledger: ChaosLedger) -> Fleet:
        """Return the ledger's processes, not started yet."""
        instances = [self.instance(ledger, name, number) for name, count in COUNTS.items() for number in range(count)]
        return Fleet(instances, self.report)

    def instance(self, ledger: ChaosLedger, name: str, number: int) -> Instance:
        """Return one process of the ledger, not started yet."""
        folder = self.folder / ledger.name
        folder.mkdir(parents=True, exist_ok=True)
        return Instance(name, number, folder, self._environment(ledger, name))

    def _environment(self, ledger: ChaosLedger, name: str) -> Mapping[str, str]:
        group = group_of(name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LEDGERLINE_")}
        return (
            kept
            | _VARIABLES
            | {
                "LEDGERLINE_HOME": str(self.folder / "home"),
                "LEDGERLINE_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{self.kafka[group].port}",
                "LEDGERLINE_POSTGRES_DSN": make_conninfo(
                    ledger.dsn, host=LOOPBACK, port=self.postgres[group].port, sslmode="disable"
                ),
                "LEDGERLINE_REGISTRY_URL": self.endpoints.registry_url,
                "LEDGERLINE_TOPIC_PREFIX": ledger.topics.prefix,
            }
        )
