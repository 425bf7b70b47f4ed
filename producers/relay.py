"""The relay copies the journal from Postgres to ledger.journal, each record exactly once for read_committed readers.

One Kafka transaction holds the records of a round and the position of each lane. The facts of the books' frame go to
ledger.frame in the same way, each before the records that name its account. At its start the relay first calls
init_transactions(), which ends the open transaction of an earlier relay with the same transactional id and fences that
relay. Only then does it read the position: in the other order the earlier relay could commit between the two steps.
The relay recovers from a Kafka error by the same start.
"""

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter, Gauge

from db.connections import TRANSIENT
from db.relay import PostedLane, RelayStore
from domain.errors import LedgerlineError, Outage
from domain.topics import Topics
from producers.deploy import QUARANTINED_BYTES_MAX
from producers.encoding import Encoder, make_encoder
from producers.kafka_statistics import make_statistics_options
from producers.relay_facts import Facts, list_fact_pages, show_facts_relayed
from producers.relay_positions import (
    POSITIONS_SECONDS_MAX,
    TRANSACTION_SECONDS_MAX,
    RelayAhead,
    RelayPosition,
    read_relay_positions,
)
from producers.relay_traces import RelayTraces
from runtime import tracing
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.metrics import show_age
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client
from runtime.tracing import Span

logger: Final = structlog.get_logger(__name__)

WAIT_SECONDS_MAX: Final = 5.0
STOP_SECONDS_MAX: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 5.0
# A generous bound on the bytes that Kafka adds to a record and a batch, and on those of a quarantined record that are
# neither key nor value.
BATCH_BYTES_SPARE: Final = 4096

RELAYED: Final = Counter("ledgerline_relay_records", "Journal records handed to Kafka.", ["outcome"])
LAG_RECORDS: Final = Gauge("ledgerline_relay_lag_records", "Journal records not yet relayed.", ["lane"])
LAG_SECONDS: Final = Gauge(
    "ledgerline_relay_lag_seconds", "Age of the lane's first journal record that is not yet relayed.", ["lane"]
)
RECOVERIES: Final = Counter("ledgerline_relay_recoveries", "Restarts of the relay from its position.")


class RelayFenced(LedgerlineError):
    """Another relay with the same transactional id took over."""


@dataclass(frozen=True)
class RelayOptions:
    """Which instance of the relay this is, of how many, and the most records in one Kafka transaction."""

    kafka: Kafka
    topics: Topics
    instance: int = 0
    instances: int = 1
    records_max: int = 5000

    @property
    def transactional_id(self) -> str:
        """The same after a restart, so that a new process of the instance fences the old one."""
        return f"{self.topics.prefix}ledgerline-relay-{self.instance}-of-{self.instances}"


@dataclass(frozen=True)
class RelayEncoders:
    """The encoders from records to framed Avro, one for each kind of record."""

    journal: Encoder
    quarantined: Encoder
    position: Encoder
    fact: Encoder

    @classmethod
    def find_registered(cls, registry: SchemaRegistry) -> "RelayEncoders":
        """Make the encoders with the schema ids that the registry holds. Raise SchemaError if one is missing."""
        with make_registry_client(registry) as client:
            subjects = ("ledger.journal-value", "payments.quarantine-value", "ledger.relay-value", "ledger.frame-value")
            return cls(*(make_encoder(subject, find_registered_id(client, subject)) for subject in subjects))


class Relay:
    """Relays one instance's lanes. Call `start` and then `round` repeatedly, or `run` for both with recovery."""

    def __init__(
        self,
        store: RelayStore,
        encoders: RelayEncoders,
        options: RelayOptions,
        *,
        make_producer: Callable[[dict[str, Any]], Producer] = Producer,
        read_positions: Callable[[Kafka, str], dict[int, RelayPosition]] = read_relay_positions,
        fault: Fault = cause_no_fault,
    ) -> None:
        self._store = store
        self._encoders = encoders
        self._options = options
        self._make_producer = make_producer
        self._read_positions = read_positions
        self._fault = fault
        self._producer: Producer | None = None
        self._traces = RelayTraces(store, options.topics.journal, options.instance, options.instances)
        self._relayed: dict[int, RelayPosition] = {}
        self._waiting_since: dict[int, float] = {}
        self._turn = 0
        self.progressed_at = time.monotonic()
        """Monotonic time of the last progress, for a watchdog. A blocking call sets it ahead by its time limit."""

    def _note_progress(self, bound_seconds: float = 0.0) -> None:
        self.progressed_at = time.monotonic() + bound_seconds

    def start(self) -> None:
        """Fence earlier processes of this instance, then read the positions that they left."""
        producer = self._make_producer(
            {
                **self._options.kafka.make_client_options(),
                "transactional.id": self._options.transactional_id,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS_MAX * 1000),
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.max.bytes": QUARANTINED_BYTES_MAX - BATCH_BYTES_SPARE,
                "queue.buffering.max.messages": 2 * self._options.records_max + 1000,
                **make_statistics_options("relay"),
            }
        )
        self._note_progress(TRANSACTION_SECONDS_MAX)
        producer.init_transactions(TRANSACTION_SECONDS_MAX)
        self._note_progress(TRANSACTION_SECONDS_MAX + POSITIONS_SECONDS_MAX)
        self._relayed = self._read_positions(self._options.kafka, self._options.topics.relay)
        self._producer = producer
        self._note_progress()

    def close(self) -> None:
        """Drop the producer and close the store. The next relay aborts a transaction that is still open."""
        self._producer = None
        self._store.close()

    def missing(self) -> str | None:
        """Return None if the relay has started, else a sentence that says what it waits for."""
        return None if self._producer is not None else "The relay has not yet read its position."

    def _get_producer(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("start() comes first")
        return self._producer

    def round(self) -> int:
        """Relay all facts, and at most one transaction of posted records. Return the number of records."""
        self._get_producer().poll(0)  # calls the statistics callback
        standing = self._store.lanes(self._options.instance, self._options.instances)
        pages = list_fact_pages(self._store, [lane for lane in standing if lane.lane < 0], self._relayed)
        for read_page in pages[:-1]:
            self._transact(read_page(), {}, None)
        facts = pages[-1]() if pages else {}
        pending = self._read_pending([lane for lane in standing if lane.lane >= 0])
        if not facts and not any(pending.values()):
            return 0
        self._fault("read")
        relayed = {lane: (records[0]["seq"], records[-1]["seq"] + 1) for lane, records in pending.items() if records}
        with self._traces.follow(relayed) as span:
            self._transact(facts, pending, span)
        return sum(map(len, pending.values()))

    def _transact(self, facts: Facts, pending: dict[int, list[dict[str, Any]]], span: Span | None) -> None:
        """Relay facts and records in one transaction. The first record of each lane carries the span's traceparent."""
        producer = self._get_producer()
        producer.begin_transaction()
        for told in facts.values():
            for fact in told:
                self._produce(self._options.topics.frame, 0, None, self._encoders.fact(fact))
        for records in pending.values():
            headers = None if span is None else {tracing.TRACEPARENT: span.traceparent.encode()}
            for record in records:
                self._produce_record(record, headers)
                headers = None
        last = {lane: records[-1] for lane, records in (*facts.items(), *pending.items()) if records}
        for lane, record in last.items():
            position = {"lane": lane, "next_seq": record["seq"] + 1, "head": record["hash"]}
            self._produce(self._options.topics.relay, 0, str(lane).encode(), self._encoders.position(position))
        self._fault("produced")
        self._note_progress(TRANSACTION_SECONDS_MAX)
        producer.commit_transaction(TRANSACTION_SECONDS_MAX)
        self._fault("committed")
        self._relayed |= {lane: RelayPosition(record["seq"] + 1, record["hash"]) for lane, record in last.items()}
        show_facts_relayed(facts)
        for records in pending.values():
            for outcome, number in Tally(record["outcome"] for record in records).items():
                RELAYED.labels(outcome).inc(number)

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set. After a Kafka error or an outage, start again from the positions.

        Raise RelayFenced if another relay took over, and RelayAhead if the ledger is behind what was relayed.
        """
        pause_seconds = 0.1
        while not stop.is_set():
            try:
                self.start()
                while not stop.is_set():
                    if self.round() == 0:
                        self._wait(stop)
                    self._note_progress()
                    pause_seconds = 0.1
            except KafkaException as error:
                if self._is_locked_out(error.args[0].code()):
                    raise RelayFenced(
                        f"Another relay took over {self._options.transactional_id}: run one relay for each instance."
                    ) from error
                cause = str(error.args[0].str())
            except (*TRANSIENT, Outage) as error:
                cause = str(error).strip()
            else:
                break
            RECOVERIES.inc()
            logger.warning("relay begins anew", cause=cause, seconds=pause_seconds)
            self.close()
            self._note_progress()
            stop.wait(pause_seconds)
            pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)
        self.close()

    def _is_locked_out(self, code: int) -> bool:
        """Return whether the error code means that the relay is fenced.

        A fence in produce() is reported as _FATAL alone. The next call of the producer reports the real code.
        """
        if code == KafkaError._FATAL and self._producer is not None:
            self._note_progress(TRANSACTION_SECONDS_MAX)
            try:
                self._producer.abort_transaction(TRANSACTION_SECONDS_MAX)
            except KafkaException as named:
                code = named.args[0].code()
        return code in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)

    def _wait(self, stop: threading.Event) -> None:
        """Wait for the next posting transaction, at most WAIT_SECONDS_MAX. Notice a stop within STOP_SECONDS_MAX."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not stop.is_set() and time.monotonic() < deadline:
            self._note_progress()
            if self._store.wait(STOP_SECONDS_MAX):
                return

    def _read_pending(self, lanes: Sequence[PostedLane]) -> dict[int, list[dict[str, Any]]]:
        """Return the next records of each lane, together at most records_max.

        Each round begins with another lane, so that a lane with a long backlog does not starve the others.
        Raise RelayAhead if a lane has fewer records than were relayed of it, or another hash.
        """
        room = self._options.records_max
        pending: dict[int, list[dict[str, Any]]] = {}
        self._turn = (self._turn + 1) % max(len(lanes), 1)
        for lane in (*lanes[self._turn :], *lanes[: self._turn]):
            relayed = self._relayed.get(lane.lane, RelayPosition())
            behind = lane.next_seq - relayed.next_seq
            LAG_RECORDS.labels(str(lane.lane)).set(behind)
            if behind < 0:
                raise RelayAhead(
                    f"The lane {lane.lane} was relayed up to {relayed.next_seq}, but the ledger has it up to"
                    f" {lane.next_seq}: restore the ledger from {self._options.topics.journal} first."
                )
            if behind > 0 and room > 0:
                records = self._store.records(lane.lane, relayed.next_seq, min(behind, room))
                if records and records[0]["previous_hash"] != relayed.head:
                    raise RelayAhead(
                        f"The lane {lane.lane} was relayed up to {relayed.next_seq} with another hash than the ledger"
                        f" has: restore the ledger from {self._options.topics.journal} first."
                    )
                pending[lane.lane] = records
                room -= len(records)
            self._show_age(lane, pending.get(lane.lane), behind)
        return pending

    def _show_age(self, lane: PostedLane, records: Sequence[dict[str, Any]] | None, behind: int) -> None:
        """Show the age of the lane's first record that is not yet relayed.

        A lane whose records were not read keeps its last known time, or else takes the time of its last row.
        """
        if not behind:
            self._waiting_since.pop(lane.lane, None)
        elif records:
            self._waiting_since[lane.lane] = records[0]["booked_time"] / 1e6
        else:
            self._waiting_since.setdefault(lane.lane, lane.booked_time / 1e6)
        show_age(LAG_SECONDS.labels(str(lane.lane)), self._waiting_since.get(lane.lane))

    def _produce_record(self, record: dict[str, Any], told: dict[str, bytes] | None = None) -> None:
        topics = self._options.topics
        key = record["intent_id"].encode() if record["intent_id"] else None
        self._produce(topics.journal, record["lane"], key, self._encoders.journal(record), told)
        if record["outcome"] == "quarantined":
            headers = [
                {"name": name, "value": None if value is None else bytes.fromhex(value)}
                for name, value in record["raw_headers"] or []
            ]
            quarantined = {**record, "key": record["raw_key"], "value": record["raw_value"], "headers": headers}
            value = self._encoders.quarantined(quarantined)
            key = record["raw_key"]
            if len(value) + len(key or b"") > QUARANTINED_BYTES_MAX - 2 * BATCH_BYTES_SPARE:
                # The message passed the broker compressed. Uncompressed it would not pass, and the relay must go on.
                detail = f"{record['detail']} Its {len(value)} bytes are too many for this topic: Postgres has them."
                key = None
                value = self._encoders.quarantined(
                    {**quarantined, "detail": detail, "key": None, "value": None, "headers": []}
                )
            self._produce(topics.quarantine, record["lane"], key, value)

    def _produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes, headers: dict[str, bytes] | None = None
    ) -> None:
        producer = self._get_producer()
        told: dict[str, Any] = {} if headers is None else {"headers": headers}
        while True:
            try:
                producer.produce(topic, value, key, partition=partition, **told)
            except BufferError:
                producer.poll(0.1)
            else:
                return
