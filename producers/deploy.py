"""The deploy step: topics made and schemas registered before anything runs; no service does either."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from confluent_kafka.schema_registry import ConfigCompatibilityLevel, Schema, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from domain.errors import LedgerlineError
from domain.topics import SUBJECTS, Topics
from producers.encoding import SchemaError, compact_text, registry_client, schema_text
from producers.published_schemas import is_published, refuse_invalid
from producers.schema_rules import losses
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry

DAY_MS: Final = 24 * 60 * 60 * 1000
ADMIN_SECONDS_MAX: Final = 30.0
# Kafka's default: a batch of 1 MiB and what its frame takes.
MESSAGE_BYTES_MAX: Final = 1_048_588
# A message of payments.intents is at most 1 MiB; in quarantine its key stands there twice.
QUARANTINED_BYTES_MAX: Final = 4 * 1024 * 1024


class TopicError(LedgerlineError):
    """Topics could not be made, or stand otherwise than they must."""


@dataclass(frozen=True)
class Replication:
    """How new topics are kept: copies, and how many of them must have a record before it counts."""

    factor: int = 1
    min_insync: int = 1


@dataclass(frozen=True)
class Retention:
    """For how many days topics are kept; ledger.journal, ledger.frame and audit.checkpoints are kept for ever."""

    intents_days: int = 30
    quarantine_days: int = 90
    breaks_days: int = 90


def topic_configs(
    topics: Topics, replication: Replication | None = None, retention: Retention | None = None
) -> dict[str, dict[str, str]]:
    """The configuration of each topic, beside partitions and replication factor: the one description of them.

    Each is said in full, so that a broker's own defaults, such as a retention by size, decide nothing.
    """
    replication, retention = replication or Replication(), retention or Retention()
    common = {
        "min.insync.replicas": str(replication.min_insync),
        "compression.type": "producer",
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
    }
    for_ever = common | {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

    def for_days(days: int) -> dict[str, str]:
        return for_ever | {"retention.ms": str(days * DAY_MS)}

    return {
        topics.intents: for_days(retention.intents_days),
        topics.journal: for_ever,
        topics.frame: for_ever,
        topics.relay: common | {"cleanup.policy": "compact"},
        topics.quarantine: for_days(retention.quarantine_days) | {"max.message.bytes": str(QUARANTINED_BYTES_MAX)},
        topics.breaks: for_days(retention.breaks_days),
        topics.checkpoints: for_ever,
    }


def partition_counts(topics: Topics, lanes: int) -> dict[str, int]:
    """Lanes have one partition each in the three topics that follow them; the others have one."""
    by_lane = {topics.intents, topics.journal, topics.quarantine}
    return {name: lanes if name in by_lane else 1 for name in topic_configs(topics)}


def lane_topics(topics: Topics) -> tuple[str, str, str]:
    """The topics with a partition for each lane, payments.intents last: while it lacks one, nothing comes by it."""
    return topics.journal, topics.quarantine, topics.intents


def make_topics(
    kafka: Kafka, topics: Topics, lanes: int, replication: Replication, retention: Retention | None = None
) -> list[str]:
    """Make the topics that are missing, and wait until the broker tells of them; returns the names made.

    TopicError where the broker is away, where there are fewer lanes than asked for, or where the topics that follow the
    lanes have different numbers of partitions. Lanes that were added since the topics were made are as they should be.
    """
    admin = AdminClient(kafka.client_options())
    counts = partition_counts(topics, lanes)
    wanted = [
        NewTopic(
            name,
            num_partitions=counts[name],
            replication_factor=replication.factor,
            config=config,
        )
        for name, config in topic_configs(topics, replication, retention).items()
    ]
    made = []
    try:
        for name, future in admin.create_topics(wanted, operation_timeout=ADMIN_SECONDS_MAX).items():
            try:
                future.result(ADMIN_SECONDS_MAX)
                made.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        _check_partitions(admin, topics, counts)
    except KafkaException as error:
        raise TopicError(f"The topics could not be made at {kafka}: {error.args[0].str()}.") from error
    return made


def _check_partitions(admin: AdminClient, topics: Topics, wanted: Mapping[str, int]) -> None:
    found = _partition_counts(admin, list(wanted))
    by_lane = {name: found[name] for name in lane_topics(topics)}
    most, least = max(by_lane.values()), wanted[topics.intents]
    if len(set(by_lane.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in by_lane.items())
        raise TopicError(
            f"The topics have different numbers of partitions ({counts}): make them the same by"
            f" `ledgerline lanes add {most}`."
        )
    if most < least:
        raise TopicError(
            f"There are {most} lanes and LEDGERLINE_LANES asks for {least}: add them by `ledgerline lanes add {least}`,"
            " as a deploy adds none, or set it to what there is."
        )
    for name, count in found.items():
        if name not in by_lane and count != wanted[name]:
            raise TopicError(f"The topic {name} has {count} partitions and must have {wanted[name]}: make it anew.")


def lane_counts(kafka: Kafka, topics: Topics) -> dict[str, int]:
    """How many partitions each topic has that follows the lanes; TopicError where that cannot be told."""
    try:
        return _partition_counts(AdminClient(kafka.client_options()), list(lane_topics(topics)))
    except KafkaException as error:
        raise TopicError(f"The topics at {kafka} cannot be looked at: {error.args[0].str()}.") from error


def add_partitions(kafka: Kafka, topic: str, total: int) -> None:
    """Bring a topic to `total` partitions, and wait until the broker tells of them; harmless where it has them.

    What maps keys to partitions maps them otherwise from then on. TopicError where it is refused.
    """
    admin = AdminClient(kafka.client_options())
    try:
        if _partition_counts(admin, [topic])[topic] < total:
            made = admin.create_partitions([NewPartitions(topic, total)], operation_timeout=ADMIN_SECONDS_MAX)
            made[topic].result(ADMIN_SECONDS_MAX)
        deadline = time.monotonic() + ADMIN_SECONDS_MAX
        while _partition_counts(admin, [topic])[topic] < total:
            if time.monotonic() > deadline:
                raise TopicError(f"Kafka does not tell of the new partitions of {topic}: see its log, then go on.")
    except KafkaException as error:
        raise TopicError(f"{topic} cannot have {total} partitions: {error.args[0].str()}.") from error


def _partition_counts(admin: AdminClient, names: list[str]) -> dict[str, int]:
    """The partitions of each topic; brokers tell of a new topic a moment after they said that it is made."""
    deadline = time.monotonic() + ADMIN_SECONDS_MAX
    while True:
        described = admin.describe_topics(TopicCollection(names), request_timeout=ADMIN_SECONDS_MAX)
        try:
            return {name: len(future.result(ADMIN_SECONDS_MAX).partitions) for name, future in described.items()}
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise


def register_schemas(registry: SchemaRegistry) -> dict[str, int]:
    """Register the project's schemas with their compatibility levels; returns the id of each subject.

    The level is set first, as some registries begin with none. SchemaError where one is refused as incompatible.
    """
    with registry_client(registry) as client:
        return {subject: _register(client, subject, level) for subject, (_, level) in SUBJECTS.items()}


def _register(client: SchemaRegistryClient, subject: str, level: str) -> int:
    """Register the schema under its text, which Python's serializer looks up, and under Java's, where that differs."""
    refuse_invalid(subject)
    try:
        client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))
        strangers = _refuse_faults(client, subject, level)
        _register_text(client, subject, level, compact_text(subject), strangers)
        return _register_text(client, subject, level, schema_text(subject), strangers)
    except SchemaRegistryError as error:
        if error.http_status_code == 409:
            raise SchemaError(
                f"The registry refuses avro/{SUBJECTS[subject][0]} for {subject}: it breaks {level} compatibility."
            ) from error
        raise SchemaError(f"The registry did not register {subject}: {error.error_message}.") from error
    except (HTTPError, OSError) as error:
        raise SchemaError(f"The schema registry cannot be reached to register {subject}: {error}.") from error


def _register_text(client: SchemaRegistryClient, subject: str, level: str, text: str, strangers: list[int]) -> int:
    """Register one text. Versions that somebody else registered do not stand in the way.

    Ours were judged by our own rules, which ask for more than the registry does.
    """
    try:
        return int(client.register_schema(subject, Schema(text, "AVRO")))
    except SchemaRegistryError as error:
        if error.http_status_code != 409 or not strangers:
            raise
    client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.NONE))
    try:
        return int(client.register_schema(subject, Schema(text, "AVRO")))
    finally:
        client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))


def _refuse_faults(client: SchemaRegistryClient, subject: str, level: str) -> list[int]:
    """SchemaError where our rules speak against the schema after a version of ours; else the versions that are not."""
    own = json.loads(schema_text(subject))
    strangers: list[int] = []
    try:
        versions = client.get_versions(subject)
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            return []  # the subject's first version
        raise
    for version in versions:
        held = client.get_version(subject, version).schema
        text = held.schema_str if held is not None and held.schema_str else "null"
        if not is_published(text):
            strangers.append(version)
            continue
        lost = losses(json.loads(text), own, level)
        if lost:
            raise SchemaError(
                f"avro/{SUBJECTS[subject][0]} may not follow version {version} of {subject}: {'; '.join(lost)}."
            )
    return strangers
