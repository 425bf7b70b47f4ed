"""Where a command finds the ledger: the environment first, else the stack that `ledgerline up` started."""

from dataclasses import dataclass

from domain.errors import LedgerlineError
from domain.settings import Settings
from ops.supervisor import read_state


@dataclass(frozen=True)
class Ledger:
    """The addresses of one running ledger, all known."""

    settings: Settings
    kafka_bootstrap: str
    postgres_dsn: str
    registry_url: str
    api_url: str | None


def running_ledger() -> Ledger:
    """The ledger that commands speak to; LedgerlineError where none is named and none runs."""
    settings = Settings()
    state = read_state(settings.home)
    endpoints = state.endpoints if state is not None else None
    kafka = settings.kafka_bootstrap or (endpoints.kafka_bootstrap if endpoints else None)
    dsn = settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else None
    postgres = dsn or (endpoints.postgres_dsn if endpoints else None)
    registry = settings.registry_url or (endpoints.registry_url if endpoints else None)
    if kafka is None or postgres is None or registry is None:
        raise LedgerlineError(
            "No ledger is running here: start one with `ledgerline up`, or name one by LEDGERLINE_* variables."
        )
    return Ledger(settings, kafka, postgres, registry, settings.api_url or (state.api_url if state else None))
