"""Reads ledger.journal for a replay, from any sequence number, and checks each record against the one before it."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from db.replay import LoadedLane
from domain.errors import LedgerlineError
from domain.journal import GENESIS_HASH
from runtime.journal_ends import decode_record_start
from runtime.kafka import Kafka
from streams.posting.source import KAFKA_SECONDS_MAX, KafkaAway
from streams.proof.records.canonical import compute_record_hash
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable

MESSAGES_PER_CALL: Final = 2000
SILENCE_SECONDS_MAX: Final = 30.0


class ReplayRefused(LedgerlineError):
    """A replay cannot go on: topic and ledger differ, the topic is faulty, or the books are missing."""


def make_beginning(lane: int) -> LoadedLane:
    """Return the place before the first record of a lane."""
    return LoadedLane(lane, 0, "", 0, 0, GENESIS_HASH, 0)


class LaneReplay:
    """One lane, which takes its records in order of offset and raises ReplayRefused if one cannot be its next."""

    def __init__(self, place: LoadedLane, source_topic: str) -> None:
        self._source_topic = source_topic
        self._lane = place.lane
        self._journal_offset = place.journal_offset
        self._first_offset = place.first_offset
        self._next_seq = place.next_seq
        self._head = place.head
        self._booked_time = place.booked_time

    def place(self) -> LoadedLane:
        """Return the place of the lane after the records taken."""
        return LoadedLane(
            self._lane,
            self._journal_offset,
            self._source_topic if self._next_seq else "",
            self._first_offset,
            self._next_seq,
            self._head,
            self._booked_time,
        )

    def take(self, record: JournalRecord, offset: int) -> bool:
        """Check a record and return whether it is the next one; False for a repeated record, which audit judges."""
        self._journal_offset = offset + 1
        seq = record["seq"]
        if seq != self._next_seq or record["lane"] != self._lane:
            if seq < self._next_seq and record["lane"] == self._lane:
                return False
            raise self._make_refusal(f"the topic goes on with lane {record['lane']} seq {seq} at offset {offset}")
        if record["previous_hash"] != self._head:
            raise self._make_refusal("that record does not follow from the hash before it")
        if record["hash"] != compute_record_hash(self._head, record):
            raise self._make_refusal("that record's hash is not that of its content")
        if seq == 0:
            self._first_offset = record["source_offset"]
        if record["source_topic"] != self._source_topic or record["source_offset"] != self._first_offset + seq:
            asked = f"offset {self._first_offset + seq} of {self._source_topic}"
            raise self._make_refusal(f"that record is not the fate of {asked}")
        if not _is_balanced(record):
            raise self._make_refusal("that record's debits and credits differ")
        self._next_seq = seq + 1
        self._head = record["hash"]
        self._booked_time = record["booked_time"]
        return True

    def _make_refusal(self, why: str) -> ReplayRefused:
        return ReplayRefused(
            f"Lane {self._lane} cannot be replayed from seq {self._next_seq} on, as {why}: restore ledger.journal, or"
            " replay into an empty database, and see `ledgerline audit verify`."
        )


def _is_balanced(record: JournalRecord) -> bool:
    legs = record["legs"]
    if len(legs) == 2:  # nearly all records
        one, other = legs
        return (
            one["amount_minor"] == other["amount_minor"]
            and one["currency"] == other["currency"]
            and {one["direction"], other["direction"]} == {"debit", "credit"}
        )
    nets: dict[str, int] = {}
    for leg in legs:
        if leg["direction"] not in ("debit", "credit"):
            return False
        sign = 1 if leg["direction"] == "debit" else -1
        nets[leg["currency"]] = nets.get(leg["currency"], 0) + sign * leg["amount_minor"]
    return not any(nets.values())


def read_record(reader: RecordReader, message: Message) -> JournalRecord:
    """Return the record in a message; raise ReplayRefused if there is none."""
    try:
        return cast("JournalRecord", reader.read(message.value()))
    except Unreadable as unreadable:
        raise ReplayRefused(
            f"Offset {message.offset()} of {message.topic()}, partition {message.partition()}, holds no record"
            f" ({unreadable}): restore that topic."
        ) from unreadable


# ------------------------------------------------------------------------------------------------ from the broker


def replay_consumer(kafka: Kafka) -> Consumer:
    """Return a consumer for assigned partitions: it reads committed messages and reports the end of each partition."""
    return Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "ledgerline-replay",  # librdkafka requires it; no offset is ever committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # If the requested offset was deleted, reading starts at the earliest one. The gap in the seqs is noticed.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 32_768,
        }
    )


def list_partitions(kafka: Kafka, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions; raise KafkaAway if the broker does not answer or lacks the topic."""
    consumer = replay_consumer(kafka)
    try:
        found = consumer.list_topics(topic, timeout=KAFKA_SECONDS_MAX).topics[topic]
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {kafka} does not describe the topic {topic}: {error}.") from error
    finally:
        consumer.close()
    if found.error is not None:
        raise KafkaAway(f"Kafka at {kafka} does not describe the topic {topic}: {found.error}.")
    return sorted(found.partitions)


def read_to_ends(kafka: Kafka, topic: str, starts: Mapping[int, int]) -> Iterator[list[Message]]:
    """Yield the messages of each partition from its start offset up to its end, at most MESSAGES_PER_CALL at a time.

    A partition is done when its end is reached. Raise KafkaAway if the broker falls silent.
    """
    consumer = replay_consumer(kafka)
    try:
        consumer.assign([TopicPartition(topic, lane, offset) for lane, offset in starts.items()])
        waiting = set(starts)
        heard_at = time.monotonic()
        while waiting:
            messages = consumer.consume(MESSAGES_PER_CALL, 0.2)
            page = [message for message in messages if message.error() is None and message.partition() in waiting]
            for message in messages:
                if message.error() is not None:
                    waiting -= _find_ended(message, kafka, topic)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > SILENCE_SECONDS_MAX:
                raise KafkaAway(f"Kafka at {kafka} does not hand over {topic}: look whether the broker is up.")
            if page:
                yield page
    finally:
        consumer.close()


def _find_ended(message: Message, kafka: Kafka, topic: str) -> set[int]:
    error = message.error()
    if error.code() == KafkaError._PARTITION_EOF:
        return {message.partition()}
    if error.fatal() or not error.retriable():
        raise KafkaAway(f"Kafka at {kafka} does not hand over {topic}: {error}.")
    return set()


def find_offset(kafka: Kafka, topic: str, lane: int, seq: int) -> int:
    """Return the offset at which the topic has this sequence number, or the first one after it.

    Each record takes at least one offset. So the offset is `seq` or higher, and two offsets are at least as far apart
    as their sequence numbers: each step comes nearer, and no step passes the offset. Raise ReplayRefused if the lane
    ends before `seq`, and KafkaAway if the broker does not answer.
    """
    consumer = replay_consumer(kafka)
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, lane), timeout=KAFKA_SECONDS_MAX)
        offset = max(low, seq)
        while offset < high:
            found = _read_first_from(consumer, topic, lane, offset)
            if found is None:
                break
            at = decode_record_start(found.value()).seq
            if at >= seq:
                return int(found.offset())
            offset = found.offset() + seq - at
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {kafka} does not hand over {topic}: {error}.") from error
    finally:
        consumer.close()
    raise ReplayRefused(f"Lane {lane} of {topic} ends before seq {seq}: restore that topic.")


def _read_first_from(consumer: Consumer, topic: str, lane: int, offset: int) -> Message | None:
    consumer.assign([TopicPartition(topic, lane, offset)])
    deadline = time.monotonic() + KAFKA_SECONDS_MAX
    while time.monotonic() < deadline:
        message: Any = consumer.poll(1.0)
        if message is None:
            continue
        if message.error() is None:
            return message
        if message.error().code() == KafkaError._PARTITION_EOF:
            return None
        if not message.error().retriable():
            raise KafkaException(message.error())
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer in {KAFKA_SECONDS_MAX:.0f} seconds"))
