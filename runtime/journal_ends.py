"""The ends of ledger.journal's partitions: the last record of each lane, read without the Schema Registry.

The functions with `seconds_max` block and raise KafkaException if Kafka is away or silent. The limit holds for each
partition in `read_bounds`, and for each pass over the tails in `read_last_records`.
"""

import io
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from runtime.kafka import Kafka
from runtime.wire_format import FRAME

TAIL_OFFSETS: Final = 8
TAIL_FACTOR: Final = 16

# Every version of JournalRecord begins with these fields; a contract test checks that. This module reads no others.
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


class RecordStart(NamedTuple):
    """The first fields of every journal record; each hash has 32 bytes."""

    lane: int
    seq: int
    previous_hash: bytes
    hash: bytes


class Bounds(NamedTuple):
    """The first and the next offset of a partition, as the consumer's isolation level shows them."""

    low: int
    high: int


def decode_record_start(value: bytes) -> RecordStart:
    """Decode the first fields of a record; `value` includes the frame."""
    record: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME.size :]), RECORD_START, None)
    return RecordStart(**record)


def make_end_consumer(
    kafka: Kafka, group: str, isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
) -> Consumer:
    """Make a consumer for the functions below. It needs a group name, but never joins the group or commits."""
    return Consumer(
        {
            **kafka.make_client_options(),
            "client.id": group,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": isolation_level,
            "enable.partition.eof": True,
            # At the end of a partition the broker delays its empty answer by this time, and the reader waits for it.
            "fetch.wait.max.ms": 10,
            "log_level": 0,  # failures are raised
        }
    )


def read_bounds(consumer: Consumer, topic: str, lanes: Iterable[int], seconds_max: float) -> dict[int, Bounds]:
    """Return the first and the next offset of each of these partitions."""
    return {
        lane: Bounds(*consumer.get_watermark_offsets(TopicPartition(topic, lane), timeout=seconds_max))
        for lane in lanes
    }


def read_last_records(
    consumer: Consumer, topic: str, bounds: Mapping[int, Bounds], seconds_max: float
) -> dict[int, RecordStart]:
    """Return the last record within the bounds of each lane; lanes without one are left out.

    Only the tail is read: first a few offsets, then more if those are transaction markers or aborted records.
    """
    found: dict[int, RecordStart] = {}
    missing = {lane for lane, (low, high) in bounds.items() if low < high}
    behind = TAIL_OFFSETS
    while missing:
        starts = {lane: max(bounds[lane].low, bounds[lane].high - behind) for lane in missing}
        found |= read_to_end(consumer, topic, starts, seconds_max)
        missing = {lane for lane, start in starts.items() if lane not in found and start > bounds[lane].low}
        behind *= TAIL_FACTOR
    return found


def read_to_end(
    consumer: Consumer, topic: str, starts: Mapping[int, int], seconds_max: float
) -> dict[int, RecordStart]:
    """Return the last record of each partition from an offset on; partitions without one are left out."""
    consumer.assign([TopicPartition(topic, lane, start) for lane, start in starts.items()])
    last: dict[int, bytes] = {}
    waiting = set(starts)
    deadline = time.monotonic() + seconds_max
    while waiting:
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no end in {seconds_max:.0f} seconds"))
        message = consumer.poll(0.5)
        if message is None:
            continue
        error = message.error()
        if error is None:
            last[message.partition()] = message.value()
        elif error.code() == KafkaError._PARTITION_EOF:
            waiting.discard(message.partition())
        elif not error.retriable():
            raise KafkaException(error)
    consumer.unassign()
    return {lane: decode_record_start(value) for lane, value in last.items()}
