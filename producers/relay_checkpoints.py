"""How far the relay came, as the topic ledger.relay remembers it."""

import time
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.errors import LedgerlineError
from domain.journal import GENESIS_HASH
from producers.encoding import parsed_schema, read_body
from runtime.kafka import Kafka

TRANSACTION_SECONDS_MAX: Final = 30.0
# Long enough for the broker to abort what another relay left open.
CHECKPOINTS_SECONDS_MAX: Final = 2 * TRANSACTION_SECONDS_MAX


class RelayAhead(LedgerlineError):
    """What was relayed is not what the ledger holds, such as after the ledger was restored from a backup."""


class Checkpoint(NamedTuple):
    """How far a lane, or a chain of facts, was relayed."""

    next_seq: int = 0
    head: bytes = GENESIS_HASH
    """Hash of the record before."""


def read_checkpoints(kafka: Kafka, topic: str) -> dict[int, Checkpoint]:
    """How far each lane was relayed, from the committed records of the checkpoints' topic, up to its very end.

    Where another shard has a transaction open there, a read_committed reader first sees nothing behind it: this one
    waits until that is through, as our own last checkpoint may stand there.
    """
    schema = parsed_schema("ledger.relay-value")
    checkpoints: dict[int, Checkpoint] = {}
    end = _end_of(kafka, topic)
    consumer = _consumer(kafka, "read_committed")
    deadline = time.monotonic() + CHECKPOINTS_SECONDS_MAX
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                checkpoint = read_body(message.value(), schema)
                checkpoints[checkpoint["lane"]] = Checkpoint(checkpoint["next_seq"], checkpoint["head"])
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() >= end:
                    return checkpoints
            elif not error.retriable():
                raise KafkaException(error)
    finally:
        consumer.close()
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"the end of {topic} was not reached"))


def _end_of(kafka: Kafka, topic: str) -> int:
    """The offset after the last record of the topic's one partition, committed or not."""
    consumer = _consumer(kafka, "read_uncommitted")
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TRANSACTION_SECONDS_MAX)
    finally:
        consumer.close()
    return int(end)


def _consumer(kafka: Kafka, isolation_level: str) -> Consumer:
    return Consumer(
        {
            **kafka.client_options(),
            "group.id": "ledgerline-relay-checkpoint",
            "enable.auto.commit": False,
            "isolation.level": isolation_level,
            "enable.partition.eof": True,
            # The broker holds the answer that says "nothing more" for so long, and each start waits for it.
            "fetch.wait.max.ms": 10,
        }
    )
