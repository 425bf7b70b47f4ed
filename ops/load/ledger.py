"""The ledger that is put under load: one of its own that is removed afterwards, or one that runs and is named."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from db.access import Scope, add_key
from db.connections import connect
from domain.errors import LedgerlineError
from ops import supervisor
from ops.bench.processor_time import ProcessorTime
from ops.cli.context import Ledger, api_key, running_ledger
from ops.cli.stack import KEY_TENANT
from ops.embedded.stack import Endpoints
from ops.supervision.state import RunState, read_state

Report = Callable[[str], None]

# No rate limit may answer in the ledger's place, but for the key that is there to be refused.
REQUESTS_PER_MINUTE: Final = 10_000_000
THROTTLED_REQUESTS_PER_MINUTE: Final = 60


class LoadTarget(LedgerlineError):
    """The ledger that is to be put under load is not named whole."""


@dataclass(frozen=True)
class LoadLedger:
    """Where it is, and what may be done to it."""

    ledger: Ledger
    url: str
    key: str = field(repr=False)
    throttled_key: str | None = field(default=None, repr=False)
    """One that may ask only a little; None where keys could not be made."""
    state: RunState | None = None
    """Its processes, where they run on this machine."""

    def services(self) -> Mapping[str, psutil.Process]:
        """The processes of the services that run on this machine, by name."""
        if self.state is None:
            return {}
        return {
            service.name if service.instance == 0 else f"{service.name} {service.instance}": psutil.Process(service.pid)
            for service in self.state.services
            if service.pid is not None
        }

    def processor_time(self) -> ProcessorTime:
        """What counts processor seconds of everything that works for it and runs here."""
        endpoints = Endpoints(self.ledger.kafka.bootstrap, self.ledger.postgres_dsn, self.ledger.registry.url)
        found = ProcessorTime(endpoints, self.ledger.postgres_dsn)
        for name, process in self.services().items():
            found.watch(name, process)
        return found


def named_ledger() -> LoadLedger:
    """The ledger that LEDGERLINE_* names; LoadTarget where a part of it is not."""
    try:
        ledger = running_ledger()
    except LedgerlineError as error:
        raise LoadTarget(
            "LEDGERLINE_API_URL names a ledger, but not where its reconciliation is asked: set"
            " LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN and LEDGERLINE_REGISTRY_URL as well."
        ) from error
    key = api_key(ledger.settings)
    if ledger.api_url is None or key is None:
        raise LoadTarget("There is no API key for the ledger that LEDGERLINE_API_URL names: set LEDGERLINE_API_KEY.")
    state = read_state(ledger.settings.home)
    is_here = state is not None and state.api_url == ledger.api_url
    return LoadLedger(ledger, ledger.api_url, key, state=state if is_here else None)


@contextmanager
def own_ledger(home: Path, cache: Path, report: Report) -> Iterator[LoadLedger]:
    """A whole ledger with the settings that `ledgerline up` has, removed at the end whatever happens."""
    if read_state(home) is not None:  # a run that was killed left it
        supervisor.down(home, report)
    shutil.rmtree(home, ignore_errors=True)
    environment = dict(os.environ)
    for name in [name for name in environment if name.startswith("LEDGERLINE_")]:
        del os.environ[name]
    os.environ["LEDGERLINE_HOME"] = str(home)
    try:
        state = supervisor.up(home, report, tied=True, cache=cache)
        ledger = running_ledger()
        if ledger.api_url is None:
            raise LoadTarget("The API of the load's own ledger did not start: read its log.")
        key, throttled = (
            make_api_key(ledger, KEY_TENANT, limit) for limit in (REQUESTS_PER_MINUTE, THROTTLED_REQUESTS_PER_MINUTE)
        )
        yield LoadLedger(ledger, ledger.api_url, key, throttled, state)
    finally:
        supervisor.down(home, report)
        shutil.rmtree(home, ignore_errors=True)
        os.environ.clear()
        os.environ.update(environment)


def make_api_key(ledger: Ledger, tenant: str, requests_per_minute: int | None) -> str:
    """Make a key of a tenant that exists, with every scope; None for the limit leaves the default one."""
    with connect(ledger.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        _, key = add_key(connection, tenant, "load", list(Scope), requests_per_minute)
    return key
