"""The ledger under load: one that is started for the run and removed afterwards, or a running one that is named."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from cli.commands.stack import KEY_TENANT
from cli.context import Ledger, find_api_key, find_running_ledger
from cli.supervision import supervisor
from db.access import Scope, add_key
from db.connections import connect
from domain.errors import LedgerlineError
from ops.embedded.stack import Endpoints
from ops.run_state import RunState, read_state
from tools.bench.processor_time import ProcessorTime

Report = Callable[[str], None]

# High enough that no rate limit refuses a request. Only the throttled key must be refused.
REQUESTS_PER_MINUTE: Final = 10_000_000
THROTTLED_REQUESTS_PER_MINUTE: Final = 60


class LoadTarget(LedgerlineError):
    """The settings do not name the ledger completely, or its API did not start."""


@dataclass(frozen=True)
class LoadLedger:
    """The addresses and keys of the ledger under load."""

    ledger: Ledger
    url: str
    key: str = field(repr=False)
    throttled_key: str | None = field(default=None, repr=False)
    """A key with a low rate limit; None for a named ledger, whose keys the run does not make."""
    state: RunState | None = None
    """The state of its processes; None if they do not run on this machine."""

    def services(self) -> Mapping[str, psutil.Process]:
        """Return the processes of the services that run on this machine, by name."""
        if self.state is None:
            return {}
        return {
            service.name if service.instance == 0 else f"{service.name} {service.instance}": psutil.Process(service.pid)
            for service in self.state.services
            if service.pid is not None
        }

    def processor_time(self) -> ProcessorTime:
        """Return a counter of processor seconds of all processes on this machine that work for the ledger."""
        endpoints = Endpoints(self.ledger.kafka.bootstrap, self.ledger.postgres_dsn, self.ledger.registry.url)
        found = ProcessorTime(endpoints, self.ledger.postgres_dsn)
        for name, process in self.services().items():
            found.watch(name, process)
        return found


def named_ledger() -> LoadLedger:
    """Return the ledger that LEDGERLINE_* names. Raise LoadTarget if a part or the API key is not named."""
    try:
        ledger = find_running_ledger()
    except LedgerlineError as error:
        raise LoadTarget(
            "LEDGERLINE_API_URL names a ledger, but the check needs its parts too: set"
            " LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN and LEDGERLINE_REGISTRY_URL as well."
        ) from error
    key = find_api_key(ledger.settings)
    if ledger.api_url is None or key is None:
        raise LoadTarget("There is no API key for the ledger that LEDGERLINE_API_URL names: set LEDGERLINE_API_KEY.")
    state = read_state(ledger.settings.home)
    is_here = state is not None and state.api_url == ledger.api_url
    return LoadLedger(ledger, ledger.api_url, key, state=state if is_here else None)


@contextmanager
def own_ledger(home: Path, cache: Path, report: Report) -> Iterator[LoadLedger]:
    """Start a whole ledger with the default settings of `ledgerline up`, and always remove it at the end."""
    if read_state(home) is not None:  # left by a run that was killed
        supervisor.stop_run(home, report)
    shutil.rmtree(home, ignore_errors=True)
    environment = dict(os.environ)
    for name in [name for name in environment if name.startswith("LEDGERLINE_")]:
        del os.environ[name]
    os.environ["LEDGERLINE_HOME"] = str(home)
    try:
        state = supervisor.start_run(home, report, tied=True, cache=cache)
        ledger = find_running_ledger()
        if ledger.api_url is None:
            raise LoadTarget("The API of the load's own ledger did not start: read its log.")
        key, throttled = (
            make_api_key(ledger, KEY_TENANT, limit) for limit in (REQUESTS_PER_MINUTE, THROTTLED_REQUESTS_PER_MINUTE)
        )
        yield LoadLedger(ledger, ledger.api_url, key, throttled, state)
    finally:
        supervisor.stop_run(home, report)
        shutil.rmtree(home, ignore_errors=True)
        os.environ.clear()
        os.environ.update(environment)


def make_api_key(ledger: Ledger, tenant: str, requests_per_minute: int | None) -> str:
    """Make a key of a tenant that exists, with every scope; None for the limit leaves the default one."""
    with connect(ledger.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        _, key = add_key(connection, tenant, "load", list(Scope), requests_per_minute)
    return key
