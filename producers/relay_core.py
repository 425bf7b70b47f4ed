"""The core of every relay: rows of Postgres to Kafka, each record exactly once for read_committed readers.

One Kafka transaction holds the records of a round and the position of each lane. At its start a relay first calls
init_transactions(), which ends the open transaction of an earlier relay with the same transactional id and fences that
relay. Only then does it read the positions: in the other order the earlier relay could commit between the two steps.
A relay recovers from a Kafka error by the same start.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter, Gauge

from db.connections import TRANSIENT
from db.relay import LaneEnd
from domain.errors import LedgerlineError, Outage
from domain.topics import Topics
from producers.deploy import QUARANTINED_BYTES_MAX
from producers.encoding import Encoder
from producers.kafka_statistics import make_statistics_options
from producers.relay_positions import (
    POSITIONS_SECONDS_MAX,
    TRANSACTION_SECONDS_MAX,
    RelayAhead,
    RelayPosition,
    read_relay_positions,
)
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.metrics import show_age

logger: Final = structlog.get_logger(__name__)

WAIT_SECONDS_MAX: Final = 5.0
STOP_SECONDS_MAX: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 5.0
# A generous bound on the bytes that Kafka adds to a record and a batch, and on those of a quarantined record that are
# neither key nor value.
BATCH_BYTES_SPARE: Final = 4096

RECOVERIES: Final = Counter("ledgerline_relay_recoveries", "Restarts of the relay from its position.")

Row = TypeVar("Row")
"""A row of a lane, as the relay's store reads it."""


class RelayFenced(LedgerlineError):
    """Another relay with the same transactional id took over."""


class Outgoing(NamedTuple):
    """One record for Kafka."""

    topic: str
    partition: int | None
    """None: the key chooses the partition, as Java's producer would."""
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes] | None = None


class Waiter(Protocol):
    """The part of a relay's store that the core uses."""

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a commit of new rows; return whether one came."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class RelayOptions:
    """Which instance of the relay this is, of how many, and the most records in one Kafka transaction."""

    kafka: Kafka
    topics: Topics
    instance: int = 0
    instances: int = 1
    records_max: int = 5000


class TransactionalRelay(ABC, Generic[Row]):
    """Relays one instance's lanes. Call `start` and then `round` repeatedly, or `run` for both with recovery."""

    name: str
    """Names the relay's producer in metrics, and its transactional id."""
    positions_topic: str
    """The compacted topic that has the position of each lane."""
    lag_records: Gauge
    lag_seconds: Gauge

    def __init__(
        self,
        store: Waiter,
        encode_position: Encoder,
        options: RelayOptions,
        *,
        make_producer: Callable[[dict[str, Any]], Producer] = Producer,
        read_positions: Callable[[Kafka, str], dict[int, RelayPosition]] = read_relay_positions,
        fault: Fault = cause_no_fault,
    ) -> None:
        self._store = store
        self._encode_position = encode_position
        self._options = options
        self._make_producer = make_producer
        self._read_positions = read_positions
        self._fault = fault
        self._producer: Producer | None = None
        self._relayed: dict[int, RelayPosition] = {}
        self._waiting_since: dict[int, float] = {}
        self._turn = 0
        self.progressed_at = time.monotonic()
        """Monotonic time of the last progress, for a watchdog. A blocking call sets it ahead by its time limit."""

    @abstractmethod
    def round(self) -> int:
        """Relay at most one transaction of records, by `_transact`. Return their number."""

    @abstractmethod
    def _read(self, lane: int, from_here: RelayPosition, rows_max: int) -> list[Row]:
        """Return the lane's rows from this position on, in order. Raise RelayAhead if they do not follow it."""

    @abstractmethod
    def _get_time(self, row: Row) -> int:
        """Return when the row was committed, in microseconds since 1970."""

    @abstractmethod
    def _make_ahead_error(self, lane: int, relayed_seq: int, next_seq: int) -> RelayAhead:
        """Return the error for a lane that was relayed up to `relayed_seq`, and that Postgres has up to `next_seq`."""

    @property
    def transactional_id(self) -> str:
        """The same after a restart, so that a new process of the instance fences the old one."""
        options = self._options
        return f"{options.topics.prefix}ledgerline-{self.name}-{options.instance}-of-{options.instances}"

    def _note_progress(self, bound_seconds: float = 0.0) -> None:
        self.progressed_at = time.monotonic() + bound_seconds

    def start(self) -> None:
        """Fence earlier relays of the instance, then read the positions that they left."""
        producer = self._make_producer(
            {
                **self._options.kafka.make_client_options(),
                "transactional.id": self.transactional_id,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS_MAX * 1000),
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.max.bytes": QUARANTINED_BYTES_MAX - BATCH_BYTES_SPARE,
                "queue.buffering.max.messages": 2 * self._options.records_max + 1000,
                **make_statistics_options(self.name),
            }
        )
        self._note_progress(TRANSACTION_SECONDS_MAX)
        producer.init_transactions(TRANSACTION_SECONDS_MAX)
        self._note_progress(TRANSACTION_SECONDS_MAX + POSITIONS_SECONDS_MAX)
        self._relayed = self._read_positions(self._options.kafka, self.positions_topic)
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

    def _transact(self, records: Iterable[Outgoing], positions: Mapping[int, RelayPosition]) -> None:
        """Send the records and the positions after them, by lane, in one Kafka transaction."""
        producer = self._get_producer()
        producer.begin_transaction()
        for record in records:
            self._produce(record)
        for lane, position in positions.items():
            value = self._encode_position({"lane": lane, **position._asdict()})
            self._produce(Outgoing(self.positions_topic, 0, str(lane).encode(), value))
        self._fault("produced")
        self._note_progress(TRANSACTION_SECONDS_MAX)
        producer.commit_transaction(TRANSACTION_SECONDS_MAX)
        self._fault("committed")
        self._relayed |= positions

    def _produce(self, record: Outgoing) -> None:
        producer = self._get_producer()
        chosen: dict[str, Any] = {} if record.headers is None else {"headers": record.headers}
        if record.partition is not None:
            chosen["partition"] = record.partition
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, **chosen)
            except BufferError:
                producer.poll(0.1)
            else:
                return

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
                        f"Another relay took over {self.transactional_id}: run one relay for each instance."
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
        """Wait for the next commit of new rows, at most WAIT_SECONDS_MAX. Notice a stop within STOP_SECONDS_MAX."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not stop.is_set() and time.monotonic() < deadline:
            self._note_progress()
            if self._store.wait(STOP_SECONDS_MAX):
                return

    def _read_pending(self, lanes: Sequence[LaneEnd]) -> dict[int, list[Row]]:
        """Return the next rows of each lane, together at most records_max.

        Each round begins with another lane, so that a lane with a long backlog does not starve the others.
        Raise RelayAhead if a lane has fewer rows than were relayed of it.
        """
        room = self._options.records_max
        pending: dict[int, list[Row]] = {}
        self._turn = (self._turn + 1) % max(len(lanes), 1)
        for lane in (*lanes[self._turn :], *lanes[: self._turn]):
            from_here = self._relayed.get(lane.lane, RelayPosition())
            behind = lane.next_seq - from_here.next_seq
            self.lag_records.labels(str(lane.lane)).set(behind)
            if behind < 0:
                raise self._make_ahead_error(lane.lane, from_here.next_seq, lane.next_seq)
            if behind > 0 and room > 0:
                pending[lane.lane] = self._read(lane.lane, from_here, min(behind, room))
                room -= len(pending[lane.lane])
            self._show_age(lane, pending.get(lane.lane), behind)
        return pending

    def _show_age(self, lane: LaneEnd, rows: Sequence[Row] | None, behind: int) -> None:
        """Show the age of the lane's first row that is not yet relayed.

        A lane whose rows were not read keeps its last known time, or else takes the time of its last row.
        """
        if not behind:
            self._waiting_since.pop(lane.lane, None)
        elif rows:
            self._waiting_since[lane.lane] = self._get_time(rows[0]) / 1e6
        else:
            self._waiting_since.setdefault(lane.lane, lane.booked_time / 1e6)
        show_age(self.lag_seconds.labels(str(lane.lane)), self._waiting_since.get(lane.lane))
