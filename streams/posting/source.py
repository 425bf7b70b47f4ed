"""The topic that lanes are posted from: what the broker says about it, and whether posting may go on."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, TopicDescription

from db.posting import Lane
from domain.errors import LedgerlineError, Outage
from runtime.journal_ends import read_bounds
from runtime.kafka import Kafka

KAFKA_SECONDS_MAX: Final = 10.0
LOOK_SECONDS_MAX: Final = 5.0


class TopicMismatch(LedgerlineError):
    """The lanes were posted from another topic than the present one, or the topic lost records."""


class Source(NamedTuple):
    """The topic that the lanes are posted from, as the broker describes it."""

    topic: str
    topic_id: str
    first_offsets: dict[int, int]
    """Lowest offset that each partition still has."""
    end_offsets: dict[int, int]
    """Next offset that each partition will give."""


class KafkaAway(Outage):
    """The broker did not answer."""


def describe_source(kafka: Kafka, topic: str) -> Source:
    """Return the topic's id and the offsets of each partition; raise KafkaAway if the broker does not answer."""
    try:
        admin = AdminClient({**kafka.make_client_options(), "log_level": 0})
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=KAFKA_SECONDS_MAX)[topic].result()
        consumer = Consumer(
            {
                **kafka.make_client_options(),
                "group.id": "ledgerline-describe",
                "enable.auto.commit": False,
                "log_level": 0,  # errors are raised instead
            }
        )
        try:
            partitions = [partition.id for partition in described.partitions]
            offsets = read_bounds(consumer, topic, partitions, KAFKA_SECONDS_MAX)
        finally:
            consumer.close()
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {kafka} does not describe the topic {topic}: {error}.") from error
    return Source(
        topic,
        str(described.topic_id),
        {number: low for number, (low, _) in offsets.items()},
        {number: high for number, (_, high) in offsets.items()},
    )


class TopicIdAnswer(Protocol):
    """The answer to a request for a topic's id."""

    def result(self) -> str:
        """Wait for the answer; raise KafkaAway if the broker does not answer or has no such topic."""


class TopicLook:
    """A repeated request for a topic's id. It keeps one client for as long as Kafka answers that client."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._admin = self._make_client()

    def _make_client(self) -> AdminClient:
        return AdminClient({**self._kafka.make_client_options(), "log_level": 0})

    def ask(self) -> TopicIdAnswer:
        """Request the id; raise KafkaAway if this client cannot."""
        try:
            asked = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=LOOK_SECONDS_MAX)
        except KafkaException as error:
            raise self._make_away(error) from error
        return _TopicIdAsked(asked[self._topic], self._make_away)

    def _make_away(self, error: KafkaException) -> KafkaAway:
        # A client that had no answer may be stuck while Kafka answers everyone else.
        self._admin = self._make_client()
        return KafkaAway(f"Kafka at {self._kafka} does not describe the topic {self._topic}: {error}.")


class _TopicIdAsked(NamedTuple):
    description: "Future[TopicDescription]"
    away: Callable[[KafkaException], KafkaAway]

    def result(self) -> str:
        try:
            return str(self.description.result().topic_id)
        except KafkaException as error:
            raise self.away(error) from error


def find_offsets_with_record(kafka: Kafka, topic: str, lane: int, start: int, end: int) -> set[int]:
    """Return the offsets in [start, end) that have a committed record; raise KafkaAway if Kafka does not tell them."""
    consumer = Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "ledgerline-describe",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    found: set[int] = set()
    deadline = time.monotonic() + KAFKA_SECONDS_MAX
    try:
        consumer.assign([TopicPartition(topic, lane, start)])
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is None and message.offset() < end:
                found.add(message.offset())
            elif message.error() is None or message.error().code() == KafkaError._PARTITION_EOF:
                return found
    finally:
        consumer.close()
    raise KafkaAway(f"Kafka at {kafka} does not hand over the offsets {start} to {end} of {topic}, lane {lane}.")


def check_topic(lane: Lane, topic: str, topic_id: str) -> None:
    """Raise TopicMismatch if the topic does not have the name and the id of the lane's topic."""
    if lane.topic != topic or lane.topic_id != topic_id:
        raise TopicMismatch(
            f"Lane {lane.lane} was posted from {lane.topic} ({lane.topic_id}), but the topic there now is {topic}"
            f" ({topic_id}): restore the old topic, or start a new ledger on the new one."
        )


def check_source(lane: Lane, source: Source) -> None:
    """Raise TopicMismatch if posting would skip or repeat records; its message says what is wrong and what to do."""
    check_topic(lane, source.topic, source.topic_id)
    what = f"Lane {lane.lane} was posted from {lane.topic} ({lane.topic_id})"
    if lane.next_offset > source.end_offsets[lane.lane]:
        raise TopicMismatch(
            f"{what} up to {lane.next_offset}, but the topic ends at {source.end_offsets[lane.lane]}:"
            " restore the topic before posting goes on."
        )
    if lane.next_offset < source.first_offsets[lane.lane]:
        raise TopicMismatch(
            f"{what} up to {lane.next_offset}, but the topic now begins at {source.first_offsets[lane.lane]}:"
            " intents were deleted before they were posted; restore them from a backup of the topic."
        )


def check_absent(lane: Lane, source: Source, end_offset: int, absent: int) -> None:
    """Raise TopicMismatch if the broker lost the `absent` records below `end_offset`.

    Otherwise these offsets never had a committed record, as those of an aborted transaction.
    """
    check_source(lane, source)
    if end_offset > source.end_offsets[lane.lane]:
        raise TopicMismatch(
            f"{lane.topic} lacks {absent} records of lane {lane.lane} between {lane.next_offset} and {end_offset}:"
            " restore the topic before posting goes on."
        )
