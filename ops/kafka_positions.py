"""Where topics begin and end, what groups have committed and how far the journal was relayed: for operators' eyes.

Nothing here decides anything: the truth about offsets is in Postgres, and lag tools may be told of it.
"""

import io
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import fastavro
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from domain.errors import LedgerlineError, Outage
from producers.encoding import FRAME

REQUEST_SECONDS_MAX: Final = 5.0
TAIL_SECONDS_MAX: Final = 15.0
TAIL_OFFSETS: Final = 8

# Every version of JournalRecord begins with these two fields, which a contract test keeps; no more of it is read here.
_RECORD_START: Final = fastavro.parse_schema(
    {
        "type": "record",
        "name": "RecordStart",
        "fields": [{"name": "lane", "type": "int"}, {"name": "seq", "type": "long"}],
    }
)


class GroupBusy(LedgerlineError):
    """A consumer group has members, and Kafka takes offsets from these alone."""


class KafkaSilent(Outage):
    """The broker did not answer an operator's question."""


class TopicState(NamedTuple):
    """A topic as the broker has it: its id, and the first and next offset of each partition."""

    topic_id: str
    low: dict[int, int]
    high: dict[int, int]


def admin_client(bootstrap: str) -> AdminClient:
    """A client whose complaints are errors of its calls, not lines on standard error."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None})


def topic_state(admin: AdminClient, topic: str) -> TopicState:
    """Ask for a topic's id and offsets; KafkaSilent where the broker is away or has no such topic."""
    try:
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS_MAX)[topic]
        description = described.result(REQUEST_SECONDS_MAX)
        partitions = [partition.id for partition in description.partitions]
        low = _offsets(admin, topic, partitions, OffsetSpec.earliest())
        high = _offsets(admin, topic, partitions, OffsetSpec.latest())
    except (KafkaException, TimeoutError) as error:
        raise KafkaSilent(f"Kafka does not tell of the topic {topic}: {_cause(error)}.") from error
    return TopicState(str(description.topic_id), low, high)


def committed_offsets(admin: AdminClient, group: str, topic: str, partitions: list[int]) -> dict[int, int]:
    """What a group has committed, which is for lag tools only; partitions without a commit are left out."""
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition) for partition in partitions])
    try:
        future = admin.list_consumer_group_offsets([asked], request_timeout=REQUEST_SECONDS_MAX)[group]
        found = future.result(REQUEST_SECONDS_MAX)
    except (KafkaException, TimeoutError) as error:
        raise KafkaSilent(f"Kafka does not tell of the group {group}: {_cause(error)}.") from error
    return {position.partition: position.offset for position in found.topic_partitions if position.offset >= 0}


def tell_group(admin: AdminClient, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set a group's committed offsets, by partition; GroupBusy where an agent of the group runs."""
    told = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number, at) for number, at in offsets.items()])
    try:
        future = admin.alter_consumer_group_offsets([told], request_timeout=REQUEST_SECONDS_MAX)[group]
        errors = [found.error for found in future.result(REQUEST_SECONDS_MAX).topic_partitions if found.error]
    except (KafkaException, TimeoutError) as error:
        errors = [error.args[0] if error.args else error]
    busy = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP)
    if any(isinstance(error, KafkaError) and error.code() in busy for error in errors):
        raise GroupBusy(
            f"An agent of the group {group} runs, and tells Kafka by itself within a second where it stands: stop it"
            " first where that does not help."
        )
    if errors:
        raise KafkaSilent(f"Kafka does not take the offsets of the group {group}: {_cause(KafkaException(errors[0]))}.")


def relayed_seqs(bootstrap: str, topic: str, state: TopicState) -> dict[int, int]:
    """The first sequence number of each lane that ledger.journal does not hold yet, read off its last record.

    Only the tail is read: a few offsets, and further back where those are markers or records of aborted transactions.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "ledgerline-status",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )
    found: dict[int, int] = {lane: 0 for lane, high in state.high.items() if high == state.low[lane]}
    behind = TAIL_OFFSETS
    deadline = time.monotonic() + TAIL_SECONDS_MAX
    try:
        while missing := state.high.keys() - found.keys():
            starts = {lane: max(state.low[lane], state.high[lane] - behind) for lane in missing}
            last = _last_records(consumer, topic, starts, deadline)
            found |= {lane: _seq_of(message) + 1 for lane, message in last.items()}
            found |= {lane: 0 for lane, start in starts.items() if lane not in last and start == state.low[lane]}
            behind *= 16
    except KafkaException as error:
        raise KafkaSilent(f"Kafka does not hand over the end of {topic}: {_cause(error)}.") from error
    finally:
        consumer.close()
    return found


def _last_records(consumer: Consumer, topic: str, starts: Mapping[int, int], deadline: float) -> dict[int, Message]:
    """The last committed record of each partition from a start on; partitions without one are left out."""
    consumer.assign([TopicPartition(topic, lane, start) for lane, start in starts.items()])
    last: dict[int, Message] = {}
    waiting = set(starts)
    while waiting:
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no end in {TAIL_SECONDS_MAX:.0f} seconds"))
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            last[message.partition()] = message
        elif error.code() == KafkaError._PARTITION_EOF:
            waiting.discard(message.partition())
        elif not error.retriable():
            raise KafkaException(error)
    return last


def _seq_of(message: Message) -> int:
    body = io.BytesIO(message.value()[FRAME.size :])
    record: Any = fastavro.schemaless_reader(body, _RECORD_START, None)
    return int(record["seq"])


def _offsets(admin: AdminClient, topic: str, partitions: list[int], spec: OffsetSpec) -> dict[int, int]:
    asked = {TopicPartition(topic, partition): spec for partition in partitions}
    answers = admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=REQUEST_SECONDS_MAX
    )
    return {position.partition: int(future.result(REQUEST_SECONDS_MAX).offset) for position, future in answers.items()}


def _cause(error: Exception) -> str:
    cause = error.args[0] if error.args else None
    return str(cause.str()) if isinstance(cause, KafkaError) else "no answer in time"
