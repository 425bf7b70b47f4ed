"""Every setting of Ledgerline, in one typed class.

Only entry points (cli, tools.bench, tests) make a Settings; everything else is given what it needs.
docs/SETTINGS.md documents each field and a test notices when one is missing there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from domain.symmetry import SymmetryRule, format_rules, parse_rules
from runtime.kafka import Kafka, SaslMechanism, SecurityProtocol
from runtime.schema_registry import SchemaRegistry
from runtime.secret_files import PREFIX, get_variable, read_secret
from runtime.server_tls import ServerTls
from runtime.shares import SHARE_BOUNDS, Bounds

Share = Annotated[
    Bounds,
    NoDecode,
    BeforeValidator(lambda value: Bounds.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str),
]
"""A setting such as `100/25/10`."""

Rules = Annotated[
    tuple[SymmetryRule, ...],
    NoDecode,
    BeforeValidator(lambda value: parse_rules(value) if isinstance(value, str) else value),
    PlainSerializer(format_rules),
]
"""A setting such as `external-in=clearing:**:0:24h`."""

FORMER_NAMES: Final = {"relay_instance": "relay_shard", "relay_instances": "relay_shards"}
"""The settings that had another name in an earlier release: name -> former name, which goes on working."""

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Settings from environment variables: LEDGERLINE_ and the field in capitals. An empty variable counts as unset.

    A secret may be in a file instead, which the same variable with _FILE at its end names. Making a Settings raises
    SettingsError if such a file cannot be used, and pydantic's ValidationError for any other bad value.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    home: Path = Field(REPOSITORY_ROOT / ".ledgerline", description="Folder of the embedded parts: data, cache, logs.")
    kafka_bootstrap: str | None = Field(None, description="Kafka's bootstrap servers; unset means the embedded broker.")
    postgres_dsn: SecretStr | None = Field(None, description="Postgres' DSN; unset means the embedded server.")
    registry_url: str | None = Field(None, description="Schema Registry's base URL; unset means the embedded one.")

    kafka_security_protocol: SecurityProtocol = Field(
        "PLAINTEXT", description="How the connection to Kafka is encrypted, and how we log in."
    )
    kafka_sasl_mechanism: SaslMechanism = Field("SCRAM-SHA-512", description="How Kafka checks the password.")
    kafka_sasl_username: str | None = Field(None, description="User name at Kafka; only for SASL.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password of that user at Kafka.")
    kafka_ssl_ca_file: Path | None = Field(
        None, description="PEM file of the authorities that we trust for Kafka; unset: the system's."
    )
    kafka_ssl_certificate_file: Path | None = Field(
        None, description="PEM file of our own certificate; for brokers that require one."
    )
    kafka_ssl_key_file: Path | None = Field(None, description="PEM file of the private key of that certificate.")
    postgres_password: SecretStr | None = Field(
        None, description="Password for Postgres; it is used in place of one in the DSN."
    )
    registry_username: str | None = Field(None, description="User name at the registry; by HTTP basic authentication.")
    registry_password: SecretStr | None = Field(None, description="Password of that user at the registry.")
    registry_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that we trust for the registry; unset: the system's.",
    )

    topic_prefix: str = Field(
        "", description="Prefix of every topic and consumer group, so that ledgers can share a broker."
    )
    lanes: int = Field(4, ge=1, le=1024, description="Partitions of payments.intents when the topics are made.")
    replication_factor: int = Field(1, ge=1, description="Replicas of new topics; 3 on a real cluster.")
    min_insync_replicas: int = Field(
        1, ge=1, description="In-sync replicas that a write to a new topic needs; 2 on a real cluster."
    )
    intents_retention_days: int = Field(30, ge=1, description="How long payments.intents keeps a message.")
    quarantine_retention_days: int = Field(90, ge=1, description="How long payments.quarantine keeps a message.")
    breaks_retention_days: int = Field(90, ge=1, description="How long ledger.breaks keeps a message.")
    outbox_retention_days: int = Field(7, ge=1, description="How long Postgres keeps an event after it was published.")

    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(8080, ge=0, le=65535, description="Port that the API listens on.")
    api_url: str | None = Field(
        None, description="Where the command line finds the API; unset means the running stack's."
    )
    api_key: SecretStr | None = Field(None, description="Key that the command line posts with.")
    api_body_bytes_max: int = Field(4_000_000, ge=1024, description="Largest body of a batch; above it 413.")
    api_intent_bytes_max: int = Field(
        1_000_000, ge=1024, description="Largest body of any other request, such as one intent; above it 413."
    )
    api_requests_per_minute: int = Field(
        60_000, ge=1, description="Rate limit of one API key, if the key has none of its own."
    )
    api_requests_at_once: Share = Field(
        SHARE_BOUNDS.requests, description="Requests under way at once: in all, by one tenant, by one key."
    )
    api_body_bytes_at_once: Share = Field(
        SHARE_BOUNDS.body_bytes,
        description="Bytes of bodies of requests under way at once: in all, by one tenant, by one key.",
    )
    api_event_streams_at_once: Share = Field(
        SHARE_BOUNDS.event_streams, description="Event streams open at once: in all, by one tenant, by one key."
    )
    api_reads_at_once: Share = Field(
        SHARE_BOUNDS.reads, description="Connections for lists and reads at once: in all, by one tenant, by one key."
    )
    api_heavy_reads_at_once: Share = Field(
        SHARE_BOUNDS.heavy_reads,
        description="Connections for reports and proofs at once: in all, by one tenant, by one key.",
    )
    api_read_wait_seconds_max: float = Field(
        2.0, gt=0, description="How long a read waits for a connection of its share."
    )
    api_read_seconds_max: float = Field(3.0, gt=0, description="How long Postgres works on one query of the API.")
    api_heavy_read_seconds_max: float = Field(
        10.0, gt=0, description="How long Postgres works on one query of a report."
    )
    api_body_seconds_max: float = Field(30.0, gt=0, description="How long a body may take to arrive in full.")
    api_trusted_proxies: str = Field(
        "",
        description="Proxies whose X-Forwarded-For is trusted: how many in a row, or their networks; unset: none.",
    )
    api_documents: bool = Field(True, description="Whether the API serves /docs and /openapi.json.")
    api_wait_seconds_max: float = Field(30.0, ge=0, description="Longest wait that Prefer: wait=N may ask for.")

    api_head_bytes_max: int = Field(32_768, ge=1024, description="Largest head of a request; above it 431.")
    api_headers_max: int = Field(100, ge=10, description="Most headers of a request; above it 431.")
    api_pipelined_max: int = Field(16, ge=0, description="Most requests of a connection that wait for their turn.")
    api_connections_max: int = Field(2_000, ge=1, description="Most connections to one API process.")
    api_address_connections_max: int = Field(
        1_000, ge=1, description="Most connections from one address to one API process."
    )
    api_unread_bytes_max: int = Field(
        64_000_000, ge=1_000_000, description="Bytes of answers that clients have not read yet."
    )
    api_head_seconds_max: float = Field(10.0, gt=0, description="How long a request's head may take to arrive in full.")
    api_unread_seconds_max: float = Field(30.0, gt=0, description="How long an answer may wait for its client to read.")
    api_idle_seconds_max: float = Field(5.0, gt=0, description="Longest time between two requests of a connection.")
    tls_certificate_file: Path | None = Field(
        None, description="PEM file of the server certificate of the API and of each service's metrics; unset: no TLS."
    )
    tls_key_file: Path | None = Field(None, description="PEM file of the private key of that certificate.")

    metrics_host: str = Field("127.0.0.1", description="Address that a service serves /metrics and /readyz on.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the metrics; 0 picks a free one.")

    instance_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Name of an agent in its consumer group, which it keeps over restarts.",
    )

    posting_batch_intents_max: int = Field(5000, ge=1, description="Most intents in one posting transaction.")
    posting_stall_seconds_max: float = Field(
        60.0, gt=0, description="How long a worker with lag may post nothing; then it ends itself."
    )

    posting_key_file: Path | None = Field(
        None,
        description="PEM file of the Ed25519 private key with which posting signs the head of each batch; unset means"
        " home/posting-key.pem if it exists, else no head is signed.",
    )
    posting_public_keys_file: Path | None = Field(
        None,
        description="PEM file of posting's public keys by which audit judges its signatures; unset means"
        " home/posting-key.pub.pem if it exists, else they are not judged.",
    )

    relay_batch_records_max: int = Field(5000, ge=1, description="Most journal records in one Kafka transaction.")
    relay_instance: int = Field(
        0, ge=0, description="This relay's number; it relays the lanes with lane % instances = number."
    )
    relay_instances: int = Field(1, ge=1, description="Number of relays.")

    worker_parts: str = Field(
        "",
        description="The parts that this worker runs: names with commas between them; unset: all.",
    )

    reconciliation_sweep_seconds: float = Field(10.0, gt=0, description="Pause between sweeps over all balances.")
    symmetry_rules: Rules = Field(
        (),
        description="Accounts that must come back to a balance within a term; NAME=PATTERN:BALANCE:TERM; ...",
    )
    audit_sweep_seconds: float = Field(10.0, gt=0, description="Pause between sweeps over the stored journal.")
    audit_checkpoint_seconds: float = Field(10.0, gt=0, description="Pause between signed checkpoints.")
    audit_key_file: Path | None = Field(
        None, description="PEM file of the Ed25519 private key; unset means home/audit-key.pem."
    )
    audit_witness_file: Path | None = Field(
        None, description="File that audit appends each signed checkpoint to; unset means none."
    )
    audit_witness_git: Path | None = Field(
        None, description="Folder of a Git repository that audit commits each signed checkpoint to; unset means none."
    )

    webhooks_retention_days: int = Field(
        30,
        ge=1,
        description="How long messages of webhooks are kept for replays after they were delivered or given up.",
    )
    calls_private_addresses: bool = Field(
        False,
        description="Whether outside calls, and so webhooks, may go to private addresses and by http; only for tests.",
    )
    calls_at_once: int = Field(256, ge=1, le=10_000, description="Outside calls under way at once.")
    calls_at_once_each: int = Field(8, ge=1, description="Outside calls under way at once to one destination.")
    calls_timeout_seconds: float = Field(
        15.0, gt=0, le=120, description="How long an outside call may take, if its kind does not say."
    )
    calls_ca_file: Path | None = Field(
        None, description="PEM file of authorities that outside calls trust besides the system's."
    )

    log_level: str = Field("INFO", description="Lowest level that is logged.")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="How services log.")
    otlp_endpoint: str | None = Field(
        None, description="Base URL of the OpenTelemetry collector that traces go to by OTLP over HTTP."
    )
    trace_sample_ratio: float = Field(0.01, ge=0, le=1, description="Share of the requests that are traced.")

    def make_kafka(self, bootstrap: str) -> Kafka:
        """Return the Kafka at these brokers, which come from the settings or the running stack."""
        return Kafka(
            bootstrap,
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism,
            self.kafka_sasl_username,
            _get_text(self.kafka_sasl_password),
            self.kafka_ssl_ca_file,
            self.kafka_ssl_certificate_file,
            self.kafka_ssl_key_file,
        )

    @property
    def server_tls(self) -> ServerTls | None:
        """The certificate that the API and a service's metrics are served with; None: no TLS."""
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerTls(self.tls_certificate_file, self.tls_key_file)

    def make_registry(self, url: str) -> SchemaRegistry:
        """Return the Schema Registry at this URL, which comes from the settings or the running stack."""
        return SchemaRegistry(url, self.registry_username, _get_text(self.registry_password), self.registry_ca_file)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no settings file
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - it takes one folder for all secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence: arguments in code, secrets in files, environment variables,
        and their former names."""
        return init_settings, _SecretFiles(settings_cls), env_settings, _FormerNames(settings_cls)


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads the secrets from the files that the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - as the base
        return read_secret(field_name, os.environ), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: read_secret(name, os.environ) for name in SECRETS}
        return {name: secret for name, secret in found.items() if secret is not None}


class _FormerNames(PydanticBaseSettingsSource):
    """Reads the settings that the environment gives by a former name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - as the base
        return find_former_value(field_name, os.environ), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: find_former_value(name, os.environ) for name in FORMER_NAMES}
        return {name: value for name, value in found.items() if value is not None}


def find_former_value(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the value that the environment gives a setting by its former name; None if it gives none."""
    former = FORMER_NAMES.get(name)
    return environment.get(get_variable(former)) or None if former is not None else None


def _get_text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


SECRETS: Final = tuple(name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation))
"""The settings that are never shown, and that may be in files."""
