"""How far the topics go, for those who watch: one kept consumer, which commits nothing and joins no group."""

import io
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.errors import Outage
from domain.kafka import Kafka
from producers.encoding import FRAME

REQUEST_SECONDS_MAX: Final = 3.0
TAIL_OFFSETS: Final = 8
TAIL_FACTOR: Final = 16

# Every version of JournalRecord begins with these fields, which a contract test keeps; no more of it is read here.
RECORD_START: Final = fastavro.parse_schema(
    {
        "type": "record",
        "name": "RecordStart",
        "fields": [
            {"name": "lane", "type": "int"},
            {"name": "seq", "type": "long"},
            {"name": "previous_hash", "type": "bytes"},
            {"name": "hash", "type": "bytes"},
        ],
    }
)


class PositionsUnknown(Outage):
    """Kafka does not tell how far the topics go."""


class Positions(NamedTuple):
    """Of each lane: the first and the next offset of payments.intents, and the first seq that ledger.journal lacks."""

    first: dict[int, int]
    received: dict[int, int]
    relayed: dict[int, int]


def record_start(value: bytes) -> dict[str, Any]:
    """lane, seq, previous_hash and hash of a record in its frame, without asking for its schema."""
    record: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME.size :]), RECORD_START, None)
    return dict(record)


class PositionReader:
    """Asks the brokers; for one thread at a time. A lane's last record is read only where its partition has grown."""

    def __init__(self, kafka: Kafka, intents: str, journal: str) -> None:
        self._intents = intents
        self._journal = journal
        self._ends: dict[int, int] = {}
        self._relayed: dict[int, int] = {}
        self._consumer = Consumer(
            {
                **kafka.client_options(),
                "client.id": "ledgerline-positions",
                "group.id": "ledgerline-positions",  # asked for, though nothing is ever committed
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "log_level": 0,  # what goes wrong is raised
            }
        )

    def read(self) -> Positions:
        """How far both topics go now; blocks. PositionsUnknown where Kafka is away or lacks a topic."""
        try:
            intents = self._bounds(self._intents)
            bounds = self._bounds(self._journal)
            grown = {lane: bound for lane, bound in bounds.items() if self._ends.get(lane) != bound[1]}
            self._relayed |= self._next_seqs(grown)
            self._ends |= {lane: high for lane, (_, high) in grown.items()}
        except KafkaException as error:
            cause = error.args[0]
            told = cause.str() if isinstance(cause, KafkaError) else "no answer in time"
            raise PositionsUnknown(f"Kafka does not tell how far the topics go: {told}.") from error
        first = {lane: low for lane, (low, _) in intents.items()}
        return Positions(first, {lane: high for lane, (_, high) in intents.items()}, dict(self._relayed))

    def close(self) -> None:
        """Let go of the connections; nothing may be read afterwards."""
        self._consumer.close()

    def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first and the next offset of each partition, as far as committed."""
        found = self._consumer.list_topics(topic, REQUEST_SECONDS_MAX).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return {
            lane: self._consumer.get_watermark_offsets(TopicPartition(topic, lane), timeout=REQUEST_SECONDS_MAX)
            for lane in sorted(found.partitions)
        }

    def _next_seqs(self, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """One past the last committed record of each lane.

        Only the tail is read: a few offsets, and further back where those are markers or aborted records.
        """
        found = {lane: 0 for lane, (low, high) in bounds.items() if low == high}
        behind = TAIL_OFFSETS
        while missing := bounds.keys() - found.keys():
            starts = {lane: max(bounds[lane][0], bounds[lane][1] - behind) for lane in missing}
            last = self._last_values(starts)
            for lane, start in starts.items():
                if lane in last:
                    found[lane] = int(record_start(last[lane])["seq"]) + 1
                elif start == bounds[lane][0]:
                    found[lane] = 0
            behind *= TAIL_FACTOR
        return found

    def _last_values(self, starts: Mapping[int, int]) -> dict[int, bytes]:
        """The last record's bytes of each partition from a start on, where there is one."""
        self._consumer.assign(_places(self._journal, starts))
        last: dict[int, bytes] = {}
        waiting = set(starts)
        deadline = time.monotonic() + REQUEST_SECONDS_MAX
        while waiting:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no end in {REQUEST_SECONDS_MAX:.0f} seconds"))
            message = self._consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                last[message.partition()] = message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            elif not error.retriable():
                raise KafkaException(error)
        self._consumer.unassign()
        return last


def _places(topic: str, starts: Mapping[int, int]) -> Iterable[TopicPartition]:
    return [TopicPartition(topic, lane, start) for lane, start in starts.items()]
