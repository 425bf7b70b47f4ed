"""The audit worker: the auditor as a fenced agent on ledger.journal."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from db.agent_connection import AgentConnection
from db.audit import ROLE
from domain.topics import Topics
from producers.events import BREAKS_SUBJECT, CHECKPOINTS_SUBJECT, EventProducer
from runtime.kafka import Kafka
from runtime.key_files import SigningKey, make_key, read_key
from runtime.key_names import AUDIT_KEY_FILE
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings
from streams.away import find_away
from streams.fenced import AgentOptions, run_agent
from streams.proof.audit.agent import Auditor
from streams.proof.audit.signatures import read_posting_keys
from streams.proof.audit.sweep import AuditChores, Signer
from streams.proof.audit.witness import make_witnesses
from streams.proof.records.decoding import RecordReader

logger: Final = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Audit:
    """The batch handler, its chores, and the connection that they hold open."""

    auditor: Auditor
    signer: Signer
    chores: AuditChores
    store: AgentConnection

    def close(self) -> None:
        """Close the connection to Postgres."""
        self.store.close()


def get_key_file(settings: Settings) -> Path:
    """Return the path of the private key."""
    return settings.audit_key_file or settings.home / AUDIT_KEY_FILE


def ensure_key(settings: Settings) -> SigningKey:
    """Return the signing key. Make it if the default file does not exist; a file that the settings name must exist."""
    key_file = get_key_file(settings)
    if settings.audit_key_file is None and not key_file.exists():
        key = make_key(key_file)
        logger.warning("made a signing key", file=str(key_file), key_id=key.key_id)
        return key
    return read_key(key_file)


def wire_audit(
    kafka: Kafka, dsn: str, registry: SchemaRegistry, topics: Topics, key: SigningKey, settings: Settings
) -> Audit:
    """Make and connect all parts of an auditing worker."""
    store = AgentConnection(dsn, ROLE)
    checkpoints = EventProducer(kafka, registry, topics.checkpoints, CHECKPOINTS_SUBJECT)
    signer = Signer(store, key, checkpoints, settings.audit_checkpoint_seconds, witnesses=make_witnesses(settings))
    chores = AuditChores(store, signer, settings.audit_sweep_seconds)
    auditor = Auditor(
        store,
        RecordReader(registry, "ledger.journal-value"),
        EventProducer(kafka, registry, topics.breaks, BREAKS_SUBJECT),
        keys=read_posting_keys(settings),
        chores=chores.run,
    )
    return Audit(auditor, signer, chores, store)


def serve(options: AgentOptions, *, dsn: str, registry: SchemaRegistry, topics: Topics, settings: Settings) -> None:
    """Audit until the worker is told to stop. The call blocks, and waits until an outage is over."""
    parts = wire_audit(options.kafka, dsn, registry, topics, ensure_key(settings), settings)
    try:
        run_agent(parts.auditor, options, partial(find_away, options.kafka, dsn, ROLE, registry))
    finally:
        parts.close()
