"""The relay's positions, as the topic ledger.relay holds them."""

import time
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.errors import LedgerlineError
from domain.journal import GENESIS_HASH
from runtime.kafka import Kafka
from runtime.schemas import parse_own_schema, read_body

TRANSACTION_SECONDS_MAX: Final = 30.0
# Long enough for the broker to abort a transaction that another relay left open.
POSITIONS_SECONDS_MAX: Final = 2 * TRANSACTION_SECONDS_MAX


class RelayAhead(LedgerlineError):
    """The relayed records are not those of the ledger, for example after the ledger was restored from a backup."""


class RelayPosition(NamedTuple):
    """The position up to which a lane, or a chain of facts, was relayed."""

    next_seq: int = 0
    head: bytes = GENESIS_HASH
    """Hash of the record before `next_seq`."""


def read_relay_positions(kafka: Kafka, topic: str) -> dict[int, RelayPosition]:
    """Return each lane's position from the committed records of the relay's topic, up to its very end.

    An open transaction of another instance hides the records behind it from a read_committed reader. Our own last
    position may be among them, so wait until that transaction ends. Raise KafkaException if the end is not reached
    in POSITIONS_SECONDS_MAX.
    """
    schema = parse_own_schema("ledger.relay-value")
    positions: dict[int, RelayPosition] = {}
    end = _read_end(kafka, topic)
    consumer = _make_consumer(kafka, "read_committed")
    deadline = time.monotonic() + POSITIONS_SECONDS_MAX
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                position = read_body(message.value(), schema)
                positions[position["lane"]] = RelayPosition(position["next_seq"], position["head"])
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() >= end:
                    return positions
            elif not error.retriable():
                raise KafkaException(error)
    finally:
        consumer.close()
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"the end of {topic} was not reached"))


def _read_end(kafka: Kafka, topic: str) -> int:
    """Return the offset after the last record of the topic's only partition, whether committed or not."""
    consumer = _make_consumer(kafka, "read_uncommitted")
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TRANSACTION_SECONDS_MAX)
    finally:
        consumer.close()
    return int(end)


def _make_consumer(kafka: Kafka, isolation_level: str) -> Consumer:
    return Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "ledgerline-relay-checkpoint",
            "enable.auto.commit": False,
            "isolation.level": isolation_level,
            "enable.partition.eof": True,
            # At the end of the topic the broker holds its empty answer for this long, and each start waits for it.
            "fetch.wait.max.ms": 10,
        }
    )
