"""The addresses and credentials of the parts of one ledger: from the environment first, else from the running stack."""

from dataclasses import dataclass

from ops.run_state import RunState
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings


@dataclass(frozen=True)
class Addresses:
    """The addresses of one ledger's parts; an address that is not known is None."""

    kafka: Kafka | None
    postgres_dsn: str | None
    registry: SchemaRegistry | None
    api_url: str | None


def find_addresses(settings: Settings, state: RunState | None) -> Addresses:
    """Return the addresses of the environment, else those of the running stack, with the settings' credentials."""
    endpoints = state.endpoints if state is not None else None
    kafka = settings.kafka_bootstrap or (endpoints.kafka_bootstrap if endpoints else None)
    named = settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else None
    dsn = named or (endpoints.postgres_dsn if endpoints else None)
    registry = settings.registry_url or (endpoints.registry_url if endpoints else None)
    if dsn and settings.postgres_password:
        from db.connections import replace_password  # noqa: PLC0415 - psycopg is loaded when it is needed

        dsn = replace_password(dsn, settings.postgres_password.get_secret_value())
    return Addresses(
        settings.make_kafka(kafka) if kafka else None,
        dsn,
        settings.make_registry(registry) if registry else None,
        settings.api_url or (state.api_url if state else None),
    )
