"""Where a command finds the ledger: the environment first, else the stack that `ledgerline up` started."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cli.addresses import Addresses, addresses_of
from domain.errors import LedgerlineError
from ops.run_state import read_state
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.secret_files import SettingsError, variable
from runtime.settings import Settings


@dataclass(frozen=True)
class Ledger:
    """The addresses of one running ledger, all known."""

    settings: Settings
    kafka: Kafka
    postgres_dsn: str
    registry: SchemaRegistry
    api_url: str | None

    @property
    def addresses(self) -> Addresses:
        """The same, as those have them who may know less."""
        return Addresses(self.kafka, self.postgres_dsn, self.registry, self.api_url)


def read_settings() -> Settings:
    """The settings of the environment; SettingsError names the variable that cannot be used."""
    try:
        return Settings.model_validate({})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{variable(name)} cannot be used: {first['msg']}; docs/SETTINGS.md says what it takes."
        ) from None


def running_ledger() -> Ledger:
    """The ledger that commands speak to; LedgerlineError where none is named and none runs."""
    settings = read_settings()
    found = addresses_of(settings, read_state(settings.home))
    if found.kafka is None or found.postgres_dsn is None or found.registry is None:
        raise LedgerlineError(
            "No ledger is running here: start one with `ledgerline up`, or name one by LEDGERLINE_* variables."
        )
    return Ledger(settings, found.kafka, found.postgres_dsn, found.registry, found.api_url)


def named_kafka() -> tuple[Settings, Kafka]:
    """The settings and Kafka alone, for what needs no more; LedgerlineError where none is named and none runs."""
    settings = read_settings()
    kafka = addresses_of(settings, read_state(settings.home)).kafka
    if kafka is None:
        raise LedgerlineError("No Kafka is known: set LEDGERLINE_KAFKA_BOOTSTRAP, or run `ledgerline up`.")
    return settings, kafka


def key_file(home: Path) -> Path:
    """Where `ledgerline up` keeps the command line's API key: beside the data, as it is of no use without them."""
    return home / "data" / "api-key"


def api_key(settings: Settings) -> str | None:
    """The key that commands post with: LEDGERLINE_API_KEY, else the one that `ledgerline up` stored, else None."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    try:
        return key_file(settings.home).read_text().strip() or None
    except FileNotFoundError:
        return None


def console_url(api_url: str, key: str | None = None) -> str:
    """The console of an API; with a key behind the #, which browsers do not send, for a terminal's eyes only."""
    return f"{api_url}/console" + (f"#key={key}" if key else "")


def store_api_key(home: Path, key: str) -> Path:
    """Keep the command line's key where only this user may read it; returns the file."""
    path = key_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
    draft.replace(path)
    return path
