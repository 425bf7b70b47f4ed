"""The sender: intents that capabilities handed over go to payments.intents, at least once and in order.

An intent is deleted once Kafka has it. A crash between the two sends it again under the same key, so it moves nothing
a second time. One worker sends at a time, by a lock of its connection. If that lock is lost with the connection,
another worker may send the same intents once more, which is as harmless.
"""

import asyncio
import threading
import time
from itertools import groupby
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from db.connections import TRANSIENT
from db.worker import IntentStore, WaitingIntent
from domain.chart import Chart
from domain.errors import Outage
from domain.intents import make_intent
from producers.intents import SUBJECT, Addressed, Delivered, IntentProducer, find_drained_account
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.metrics import show_age
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client
from runtime.tracing import Trace, make_traceparent

logger: Final = structlog.get_logger(__name__)

SOURCE: Final = "/ledgerline/worker"
INTENTS_MAX: Final = 1000
WAIT_SECONDS: Final = 1.0
BACKOFF_SECONDS_MAX: Final = 5.0
COUNT_SECONDS: Final = 2.0
NO_CHART: Final = Chart([])
"""Of a tenant that does not exist: posting quarantines its intents."""

SENT: Final = Counter("ledgerline_worker_intents_sent", "Intents of capabilities that Kafka has acknowledged.")
WAITING: Final = Gauge(
    "ledgerline_worker_intents_waiting", "Intents of capabilities that Kafka has not acknowledged yet."
)
OLDEST_SECONDS: Final = Gauge(
    "ledgerline_worker_intents_oldest_seconds", "How long the oldest intent of a capability has waited for Kafka."
)


class IntentSender:
    """Sends what waits. Call `run` in a thread of its own."""

    name = "intents"

    def __init__(
        self,
        store: IntentStore,
        kafka: Kafka,
        topic: str,
        registry: SchemaRegistry,
        fault: Fault = cause_no_fault,
    ) -> None:
        self._store = store
        self._kafka = kafka
        self._topic = topic
        self._registry = registry
        self._fault = fault
        self._count_due = 0.0
        self.is_standby = False
        self.progressed_at = time.monotonic()
        """Monotonic time of the last progress, for a watchdog."""

    def missing(self) -> str | None:
        """Return None: the sender waits for whatever is away."""
        return None

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set. Wait while Postgres, Kafka or the registry is away."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        producer = IntentProducer(self._kafka, self._topic, source=SOURCE, fault=self._fault)
        pause_seconds = 0.1
        try:
            while not stop.is_set():
                try:
                    sent = await self.round(producer)
                    pause_seconds = 0.1
                except (*TRANSIENT, Outage) as error:
                    logger.warning("waiting", part=self.name, cause=str(error).strip(), seconds=pause_seconds)
                    await asyncio.to_thread(stop.wait, pause_seconds)
                    pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)
                    sent = 1  # ask again at once
                self.progressed_at = time.monotonic()
                if not sent:
                    await self._wait(stop)
        finally:
            producer.give_up()
            await producer.close()
            self._store.close()

    async def round(self, producer: IntentProducer) -> int:
        """Send at most INTENTS_MAX intents; return how many Kafka has acknowledged. Raise Outage if it has not all."""
        self.is_standby = not self._store.take_turn()
        if self.is_standby:
            return 0
        self._show_waiting()
        if not producer.has_schema:
            with make_registry_client(self._registry) as client:
                producer.use_schema(find_registered_id(client, SUBJECT))
        sent = 0
        waiting = self._store.read_waiting(INTENTS_MAX)
        charts = self._store.read_charts() if waiting else {}
        for (correlation_id, traceparent), rows in groupby(waiting, lambda row: (row.correlation_id, row.traceparent)):
            sent += await self._send(
                producer, list(rows), charts, Trace(correlation_id, traceparent or make_traceparent())
            )
        return sent

    async def _send(
        self, producer: IntentProducer, rows: list[WaitingIntent], charts: dict[str, Chart], trace: Trace
    ) -> int:
        intents = [make_intent(row.record) for row in rows]
        addressed = [
            Addressed(intent, find_drained_account(intent.legs, charts.get(intent.tenant, NO_CHART)))
            for intent in intents
        ]
        results = await producer.publish_many(addressed, trace)
        done = [row.place for row, result in zip(rows, results, strict=True) if isinstance(result, Delivered)]
        self._store.forget(done)
        SENT.inc(len(done))
        failed = next((result for result in results if not isinstance(result, Delivered)), None)
        if failed is not None:
            raise Outage(str(failed))
        return len(done)

    async def _wait(self, stop: threading.Event) -> None:
        """Wait for the next hand-over, at most WAIT_SECONDS."""
        try:
            if self.is_standby:
                await asyncio.to_thread(stop.wait, WAIT_SECONDS)
            else:
                await asyncio.to_thread(self._store.wait, WAIT_SECONDS)
        except TRANSIENT as error:
            logger.warning("waiting", part=self.name, cause=str(error).strip(), seconds=WAIT_SECONDS)

    def _show_waiting(self) -> None:
        if time.monotonic() < self._count_due:
            return
        self._count_due = time.monotonic() + COUNT_SECONDS
        waiting = self._store.count_waiting()
        WAITING.set(waiting.number)
        show_age(OLDEST_SECONDS, waiting.since / 1e6 if waiting.since is not None else None)
