"""The ledger that a command uses: named by the environment, else the stack that `ledgerline up` started."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cli.addresses import Addresses, find_addresses
from domain.errors import LedgerlineError
from ops.run_state import read_state
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.secret_files import SettingsError, get_variable
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
        """The same addresses in the type whose addresses may be None."""
        return Addresses(self.kafka, self.postgres_dsn, self.registry, self.api_url)


def read_settings() -> Settings:
    """Return the settings of the environment; raise SettingsError that names the variable that cannot be used."""
    try:
        return Settings.model_validate({})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{get_variable(name)} cannot be used: {first['msg']}; docs/SETTINGS.md says which values it accepts."
        ) from None


def find_running_ledger() -> Ledger:
    """Return the ledger that commands use; raise LedgerlineError if none is named and none runs."""
    settings = read_settings()
    found = find_addresses(settings, read_state(settings.home))
    if found.kafka is None or found.postgres_dsn is None or found.registry is None:
        raise LedgerlineError(
            "No ledger is running here: start one with `ledgerline up`, or name one by LEDGERLINE_* variables."
        )
    return Ledger(settings, found.kafka, found.postgres_dsn, found.registry, found.api_url)


def find_kafka() -> tuple[Settings, Kafka]:
    """Return the settings and Kafka, for commands that need no more; raise LedgerlineError if no Kafka is known."""
    settings = read_settings()
    kafka = find_addresses(settings, read_state(settings.home)).kafka
    if kafka is None:
        raise LedgerlineError("No Kafka is known: set LEDGERLINE_KAFKA_BOOTSTRAP, or run `ledgerline up`.")
    return settings, kafka


def get_key_file(home: Path) -> Path:
    """Return the file in which `ledgerline up` stores the API key; it is in `data`, as the key is of use only there."""
    return home / "data" / "api-key"


def find_api_key(settings: Settings) -> str | None:
    """Return the API key of the commands: LEDGERLINE_API_KEY, else the one that `ledgerline up` stored, else None."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    try:
        return get_key_file(settings.home).read_text().strip() or None
    except FileNotFoundError:
        return None


def make_console_url(api_url: str, key: str | None = None) -> str:
    """Return the URL of an API's console; a key goes behind the #, which browsers do not send: only for a terminal."""
    return f"{api_url}/console" + (f"#key={key}" if key else "")


def store_api_key(home: Path, key: str) -> Path:
    """Store the command line's key in a file that only this user may read, and return the file."""
    path = get_key_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
    draft.replace(path)
    return path
