"""Read ledger.journal from its beginning up to a fixed seq in each lane, for a full recomputation."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, TopicPartition

from domain.errors import Outage
from runtime.kafka import Kafka
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable

MESSAGES_PER_CALL: Final = 2000
SILENCE_SECONDS_MAX: Final = 30.0


class SourceAway(Outage):
    """The broker does not deliver messages that it should have."""


class Page(NamedTuple):
    """The result of one read, in order of offset within each lane."""

    records: list[JournalRecord]
    unreadable: list[tuple[int, int, str]]
    """(lane, offset, reason) of messages that are not records of their lane."""


def make_reading_consumer(kafka: Kafka, group: str) -> Consumer:
    """Return a consumer for `assign` that reads committed records only and reports the ends of partitions."""
    return Consumer(
        {
            **kafka.make_client_options(),
            "group.id": group,  # required, although no offset is ever committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 32_768,
        }
    )


def read_up_to(
    kafka: Kafka, topic: str, reader: RecordReader, bounds: Mapping[int, int], grace_seconds: float
) -> Iterator[Page]:
    """Yield all records below the bound (a seq) of each lane, page by page.

    A lane is done at its bound. If its partition ends before that, wait `grace_seconds` for more records, as the relay
    may be at work, and then leave the lane. Raise SourceAway if the broker is silent for SILENCE_SECONDS_MAX.
    """
    consumer = make_reading_consumer(kafka, "ledgerline-recompute")
    try:
        yield from _Reading(consumer, topic, reader, bounds, grace_seconds).read_pages()
    finally:
        consumer.close()


class _Reading:
    def __init__(
        self, consumer: Consumer, topic: str, reader: RecordReader, bounds: Mapping[int, int], grace_seconds: float
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._reader = reader
        self._bounds = bounds
        self._grace_seconds = grace_seconds
        self._open = {lane for lane, bound in bounds.items() if bound > 0}
        self._ended_at: dict[int, float] = {}

    def read_pages(self) -> Iterator[Page]:
        self._consumer.assign([TopicPartition(self._topic, lane, 0) for lane in sorted(self._open)])
        heard_at = time.monotonic()
        while self._open:
            page = Page([], [])
            messages = self._consumer.consume(MESSAGES_PER_CALL, 0.2)
            for message in messages:
                if message.error() is None:
                    self._take(message, page)
                else:
                    self._note(message)
            now = time.monotonic()
            for lane in [lane for lane, at in self._ended_at.items() if now - at > self._grace_seconds]:
                self._close(lane)
            if messages or self._open == set(self._ended_at):
                heard_at = now
            elif now - heard_at > SILENCE_SECONDS_MAX:
                raise SourceAway(f"Kafka does not hand over {self._topic}: look whether the broker is up.")
            if page.records or page.unreadable:
                yield page

    def _take(self, message: Any, page: Page) -> None:
        lane = message.partition()
        if lane not in self._open:
            return
        self._ended_at.pop(lane, None)
        try:
            record = cast("JournalRecord", self._reader.read(message.value()))
        except Unreadable as unreadable:
            page.unreadable.append((lane, message.offset(), str(unreadable)))
            return
        if record["lane"] != lane:
            detail = f"The record says that it is of lane {record['lane']}."
            page.unreadable.append((lane, message.offset(), detail))
            return
        seq, bound = record["seq"], self._bounds[lane]
        if seq < bound:
            page.records.append(record)
        if seq >= bound - 1:
            self._close(lane)

    def _note(self, message: Any) -> None:
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            if message.partition() in self._open:
                self._ended_at.setdefault(message.partition(), time.monotonic())
        elif error.fatal():
            raise SourceAway(f"Kafka does not hand over {self._topic}: {error}.")

    def _close(self, lane: int) -> None:
        self._open.discard(lane)
        self._ended_at.pop(lane, None)
        self._consumer.pause([TopicPartition(self._topic, lane)])


def read_all(kafka: Kafka, topic: str, reader: RecordReader) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield every message of a small topic's partition 0 up to its present end: (offset, its record or why it is none).

    Raise SourceAway if the broker is silent for SILENCE_SECONDS_MAX.
    """
    consumer = make_reading_consumer(kafka, "ledgerline-recompute")
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + SILENCE_SECONDS_MAX
        while time.monotonic() < deadline:
            for message in consumer.consume(MESSAGES_PER_CALL, 0.2):
                deadline = time.monotonic() + SILENCE_SECONDS_MAX
                error = message.error()
                if error is None:
                    try:
                        record = reader.read(message.value())
                    except Unreadable as unreadable:
                        yield message.offset(), str(unreadable)
                    else:
                        yield message.offset(), record
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
        raise SourceAway(f"Kafka does not hand over {topic}: look whether the broker is up.")
    finally:
        consumer.close()
