"""The worker: the light agents of the capabilities in one process, or apart (LEDGERLINE_WORKER_PARTS).

`reactions` and `outcomes` read Kafka, so one fenced agent runs both. The other parts run in threads beside it. A part
that works in one process at a time stands by in the others. docs/CAPABILITIES.md says what each part does.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from db.connections import Transaction
from db.outbox import OutboxStore
from db.worker import ROLE, IntentStore, WorkerConnection
from domain.effects import Effects
from domain.errors import LedgerlineError
from domain.topics import Topics
from producers.deploy import DAY_MS
from producers.event_encoding import EventEncoders
from producers.handed_over import IntentSender
from producers.relay import RelayEncoders
from producers.relay_core import RelayOptions
from producers.relay_outbox import OutboxRelay
from producers.standby import StandbyRelay
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings
from runtime.watchdog import Watchdog
from streams.away import find_away
from streams.batches import AgentOptions
from streams.beside import Beside, RunningPart
from streams.capabilities import CAPABILITIES, Capability
from streams.captures import Captures
from streams.clock import Clock
from streams.effects import Caused, EffectStore
from streams.fenced import run_agent
from streams.metrics import serve_metrics
from streams.outcomes import Outcomes
from streams.outside_calls import CallOptions, OutsideCalls
from streams.reactions import EventReader, Reactions
from streams.reactor import Part, Reactor

READING: Final = ("reactions", "outcomes", "webhooks")
"""The parts that read Kafka."""
PARTS: Final = ("outbox", "intents", "clock", "calls", *READING)
BATCH_RECORDS_MAX: Final = 500
FETCH_WAIT_MS: Final = 200
"""Longer than posting's: each empty fetch costs processor time, and a record ends the wait."""


class PartsError(LedgerlineError):
    """LEDGERLINE_WORKER_PARTS names a part that does not exist."""


@dataclass(frozen=True)
class Surroundings:
    """What the parts connect to."""

    kafka: Kafka
    dsn: str
    registry: SchemaRegistry
    topics: Topics
    settings: Settings
    capabilities: Sequence[Capability] = CAPABILITIES
    fault: Fault = cause_no_fault


def list_parts(wanted: str) -> tuple[str, ...]:
    """Return the parts that a setting names, in the table's order; all if it is empty. Raise PartsError."""
    named = {name.strip() for name in wanted.split(",") if name.strip()}
    unknown = sorted(named - set(PARTS))
    if unknown:
        raise PartsError(f"LEDGERLINE_WORKER_PARTS names {', '.join(unknown)}: choose from {', '.join(PARTS)}.")
    return tuple(name for name in PARTS if not named or name in named)


def name_agent(parts: Sequence[str]) -> str | None:
    """Return the name of the agent of these parts; None if none of them reads Kafka.

    Workers with the same parts share a consumer group; workers with other parts must not, as they read other topics.
    """
    reading = [name for name in READING if name in parts]
    return "-".join(("worker", *reading)) if reading else None


def make_reactor(around: Surroundings, parts: Sequence[str]) -> Reactor:
    """Make the handler of the parts that read Kafka."""
    made: dict[str, Callable[[], Part]] = {
        "reactions": lambda: Reactions(around.capabilities, around.topics, EventReader(around.registry)),
        "outcomes": lambda: Outcomes(around.capabilities, around.topics, around.registry),
        "webhooks": lambda: Captures(around.topics, around.registry, around.settings.webhooks_retention_days),
    }
    effects = EffectStore(EventEncoders.find_registered(around.registry))
    reading = [made[name]() for name in READING if name in parts]
    return Reactor(WorkerConnection(around.dsn), reading, effects, fault=around.fault)


def make_running_parts(around: Surroundings, parts: Sequence[str]) -> list[RunningPart]:
    """Make the parts that run in threads."""
    made: dict[str, Callable[[], RunningPart]] = {
        "outbox": lambda: _make_outbox(around),
        "intents": lambda: IntentSender(
            IntentStore(around.dsn), around.kafka, around.topics.intents, around.registry, around.fault
        ),
        "clock": lambda: Clock(
            WorkerConnection(around.dsn),
            around.capabilities,
            EffectStore(EventEncoders.find_registered(around.registry)),
        ),
    }
    made["calls"] = lambda: _make_calls(around)
    return [made[name]() for name in made if name in parts]


def _make_calls(around: Surroundings) -> OutsideCalls:
    settings = around.settings
    effects = EffectStore(EventEncoders.find_registered(around.registry))
    capability_of = {kind: capability.name for capability in around.capabilities for kind in capability.calls}

    def apply_effects(transaction: Transaction, kind: str, found: Effects) -> None:
        effects.store(transaction, [Caused(capability_of[kind], found)])

    options = CallOptions(
        at_once=settings.calls_at_once,
        at_once_each=settings.calls_at_once_each,
        timeout_seconds=settings.calls_timeout_seconds,
        private_addresses=settings.calls_private_addresses,
        ca_file=settings.calls_ca_file,
    )
    handlers = {kind: handler for capability in around.capabilities for kind, handler in capability.calls.items()}
    return OutsideCalls(around.dsn, handlers, apply_effects, options)


def _make_outbox(around: Surroundings) -> StandbyRelay:
    settings = around.settings
    options = RelayOptions(around.kafka, around.topics, records_max=settings.relay_batch_records_max)
    position = RelayEncoders.find_registered(around.registry).position
    kept_seconds = settings.outbox_retention_days * DAY_MS / 1000
    relay = OutboxRelay(OutboxStore(around.dsn), position, options, kept_seconds, fault=around.fault)
    return StandbyRelay(WorkerConnection(around.dsn), relay)


def serve(options: AgentOptions, around: Surroundings, parts: Sequence[str]) -> None:
    """Run parts of which at least one reads Kafka, until SIGTERM or SIGINT. The call blocks."""
    reactor = make_reactor(around, parts)
    options = replace(options, name="worker", topics=reactor.topics, wants=reactor.wants, records_max=BATCH_RECORDS_MAX)
    options = replace(options, fetch_wait_ms=FETCH_WAIT_MS)
    beside = Beside(make_running_parts(around, parts))
    away = partial(find_away, around.kafka, around.dsn, ROLE, around.registry)
    run_agent(reactor, options, away, beside=beside)


def serve_without_topics(
    around: Surroundings, parts: Sequence[str], stop_at_signal: Callable[[Watchdog], threading.Event]
) -> None:
    """Run parts that read no topic, until SIGTERM or SIGINT. The call blocks."""
    settings = around.settings
    beside = Beside(make_running_parts(around, parts))
    watchdog = Watchdog("worker", lambda: beside.progressed_at, stall_seconds_max=settings.posting_stall_seconds_max)
    stop = stop_at_signal(watchdog)
    watchdog.start()
    serve_metrics(settings.metrics_host, settings.metrics_port, beside.missing, settings.server_tls)
    watchdog.watch_for_stalls()
    beside.start()
    try:
        stop.wait()
    finally:
        beside.join()
