"""The reconciliation worker: the reconciler as a fenced agent on ledger.journal."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from db.agent_connection import AgentConnection
from db.reconciliation import ROLE
from domain.symmetry import SymmetryRule, merge_rules
from domain.topics import Topics
from producers.events import BREAKS_SUBJECT, EventProducer
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings
from streams.away import find_away
from streams.fenced import AgentOptions, run_agent
from streams.proof.reconciliation.agent import Reconciler
from streams.proof.reconciliation.faithful import Comparison
from streams.proof.reconciliation.frame import FrameSource
from streams.proof.reconciliation.source import IntentSource
from streams.proof.reconciliation.sweep import ReconciliationChores
from streams.proof.records.decoding import RecordReader


@dataclass(frozen=True)
class Reconciliation:
    """The batch handler, its chores, and the connections that they hold open."""

    reconciler: Reconciler
    chores: ReconciliationChores
    store: AgentConnection
    source: IntentSource
    frame_source: FrameSource

    def close(self) -> None:
        """Close the connections to Postgres and Kafka."""
        self.store.close()
        self.source.close()
        self.frame_source.close()


def wire_reconciliation(
    kafka: Kafka,
    dsn: str,
    registry: SchemaRegistry,
    topics: Topics,
    sweep_seconds: float,
    own_rules: Iterable[SymmetryRule] = (),
) -> Reconciliation:
    """Make and connect all parts of a reconciling worker; `sweep_seconds` is the pause between sweeps.

    `own_rules`: the installation's symmetry rules, beside those of the capabilities.
    """
    rules = merge_rules(own_rules)
    store = AgentConnection(dsn, ROLE)
    source = IntentSource(kafka, topics.intents)
    frame_source = FrameSource(kafka, registry, topics.frame)
    chores = ReconciliationChores(store, source, frame_source, sweep_seconds, rules)
    reconciler = Reconciler(
        store,
        RecordReader(registry, "ledger.journal-value"),
        Comparison(RecordReader(registry, "payments.intents-value"), source),
        EventProducer(kafka, registry, topics.breaks, BREAKS_SUBJECT),
        topics.intents,
        chores=chores.run,
        rules=rules,
    )
    return Reconciliation(reconciler, chores, store, source, frame_source)


def serve(options: AgentOptions, *, dsn: str, registry: SchemaRegistry, topics: Topics, settings: Settings) -> None:
    """Reconcile until the worker is told to stop. The call blocks, and waits until an outage is over."""
    parts = wire_reconciliation(
        options.kafka, dsn, registry, topics, settings.reconciliation_sweep_seconds, settings.symmetry_rules
    )
    try:
        run_agent(parts.reconciler, options, partial(find_away, options.kafka, dsn, ROLE, registry))
    finally:
        parts.close()
