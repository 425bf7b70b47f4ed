"""The reconciliation worker: the reconciler as a fenced agent on ledger.journal."""

from dataclasses import dataclass

from db.agent_connection import AgentConnection
from db.reconciliation import ROLE
from domain.settings import Settings
from domain.topics import Topics
from producers.events import BREAKS_SUBJECT, EventProducer
from streams.fenced import AgentOptions, run_agent
from streams.reconciliation.agent import Reconciler
from streams.reconciliation.decoding import RecordReader
from streams.reconciliation.faithful import Comparison
from streams.reconciliation.source import IntentSource
from streams.reconciliation.sweep import Chores


@dataclass(frozen=True)
class Reconciliation:
    """The batch handler, its chores, and what they hold open."""

    reconciler: Reconciler
    chores: Chores
    store: AgentConnection
    source: IntentSource

    def close(self) -> None:
        """Let go of Postgres and Kafka."""
        self.store.close()
        self.source.close()


def wire(bootstrap: str, dsn: str, registry_url: str, topics: Topics, sweep_seconds: float) -> Reconciliation:
    """All parts of a reconciling worker, wired together; `sweep_seconds` is the pause between sweeps."""
    store = AgentConnection(dsn, ROLE)
    source = IntentSource(bootstrap, topics.intents)
    chores = Chores(store, source, sweep_seconds)
    reconciler = Reconciler(
        store,
        RecordReader(registry_url, "ledger.journal-value"),
        Comparison(RecordReader(registry_url, "payments.intents-value"), source),
        EventProducer(bootstrap, registry_url, topics.breaks, BREAKS_SUBJECT),
        topics.intents,
        chores=chores.run,
    )
    return Reconciliation(reconciler, chores, store, source)


def serve(options: AgentOptions, *, dsn: str, registry_url: str, topics: Topics, settings: Settings) -> None:
    """Reconcile until told to stop; blocks. Outages are waited out."""
    parts = wire(options.bootstrap, dsn, registry_url, topics, settings.reconciliation_sweep_seconds)
    try:
        run_agent(parts.reconciler, options)
    finally:
        parts.close()
