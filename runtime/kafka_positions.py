"""The first and next offsets of topics and the committed offsets of consumer groups, for operators to see.

No decision of the pipeline depends on them: the true offsets are in Postgres, and Kafka gets a copy for lag tools.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from domain.errors import LedgerlineError, Outage
from runtime.kafka import Kafka

REQUEST_SECONDS_MAX: Final = 5.0


class GroupBusy(LedgerlineError):
    """A consumer group has members, so Kafka accepts offsets from these members only."""


class KafkaSilent(Outage):
    """The broker did not answer an operator's request."""


class TopicState(NamedTuple):
    """The broker's view of a topic: its id, and the first and next offset of each partition."""

    topic_id: str
    low: dict[int, int]
    high: dict[int, int]


def make_admin_client(kafka: Kafka) -> AdminClient:
    """Make a client that reports failures as errors of its calls only, not as lines on standard error."""
    return AdminClient({**kafka.make_client_options(), "log_level": 0, "error_cb": lambda _: None})


def read_topic_state(admin: AdminClient, topic: str) -> TopicState:
    """Return a topic's id and offsets. Raise KafkaSilent if the broker is away or has no such topic."""
    try:
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS_MAX)[topic]
        description = described.result(REQUEST_SECONDS_MAX)
        partitions = [partition.id for partition in description.partitions]
        low = _read_offsets(admin, topic, partitions, OffsetSpec.earliest())
        high = _read_offsets(admin, topic, partitions, OffsetSpec.latest())
    except (KafkaException, TimeoutError) as error:
        raise KafkaSilent(f"Kafka does not describe the topic {topic}: {_get_cause(error)}.") from error
    return TopicState(str(description.topic_id), low, high)


def read_committed_offsets(admin: AdminClient, group: str, topic: str, partitions: list[int]) -> dict[int, int]:
    """Return a group's committed offsets, which only lag tools use; partitions without a commit are left out."""
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition) for partition in partitions])
    try:
        future = admin.list_consumer_group_offsets([asked], request_timeout=REQUEST_SECONDS_MAX)[group]
        found = future.result(REQUEST_SECONDS_MAX)
    except (KafkaException, TimeoutError) as error:
        raise KafkaSilent(f"Kafka does not describe the group {group}: {_get_cause(error)}.") from error
    return {position.partition: position.offset for position in found.topic_partitions if position.offset >= 0}


def tell_group(admin: AdminClient, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set a group's committed offsets, by partition. Raise GroupBusy if an agent of the group runs."""
    told = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number, at) for number, at in offsets.items()])
    try:
        future = admin.alter_consumer_group_offsets([told], request_timeout=REQUEST_SECONDS_MAX)[group]
        errors = [found.error for found in future.result(REQUEST_SECONDS_MAX).topic_partitions if found.error]
    except (KafkaException, TimeoutError) as error:
        errors = [error.args[0] if error.args else error]
    busy = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP)
    if any(isinstance(error, KafkaError) and error.code() in busy for error in errors):
        raise GroupBusy(
            f"An agent of the group {group} runs, and commits its offsets to Kafka within a second: if that does not"
            " help, stop it first."
        )
    if errors:
        raise KafkaSilent(
            f"Kafka does not take the offsets of the group {group}: {_get_cause(KafkaException(errors[0]))}."
        )


def _read_offsets(admin: AdminClient, topic: str, partitions: list[int], spec: OffsetSpec) -> dict[int, int]:
    asked = {TopicPartition(topic, partition): spec for partition in partitions}
    answers = admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=REQUEST_SECONDS_MAX
    )
    return {position.partition: int(future.result(REQUEST_SECONDS_MAX).offset) for position, future in answers.items()}


def _get_cause(error: Exception) -> str:
    cause = error.args[0] if error.args else None
    return str(cause.str()) if isinstance(cause, KafkaError) else "no answer in time"
