"""The deploy step: create topics and register schemas before any service runs. No service does either."""

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
from domain.events import FAMILIES
from domain.topics import SUBJECTS, Topics
from producers.published_schemas import is_published, refuse_invalid
from producers.schema_rules import list_losses
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import SchemaError, make_compact_text, make_registry_client, read_schema_text

DAY_MS: Final = 24 * 60 * 60 * 1000
ADMIN_SECONDS_MAX: Final = 30.0
# Kafka's default: a batch of 1 MiB and 12 bytes of overhead.
MESSAGE_BYTES_MAX: Final = 1_048_588
# A message of payments.intents is at most 1 MiB. The quarantined message holds its key twice: as key and in the value.
QUARANTINED_BYTES_MAX: Final = 4 * 1024 * 1024


class TopicError(LedgerlineError):
    """Topics could not be created, changed or read, or are not as they must be."""


@dataclass(frozen=True)
class Replication:
    """The replication of new topics: the copies, and how many of them must hold a record before it is acknowledged."""

    factor: int = 1
    min_insync: int = 1


@dataclass(frozen=True)
class Retention:
    """For how many days topics keep records. ledger.journal, ledger.frame and audit.checkpoints keep them for ever."""

    intents_days: int = 30
    quarantine_days: int = 90
    breaks_days: int = 90


def make_topic_configs(
    topics: Topics, replication: Replication | None = None, retention: Retention | None = None
) -> dict[str, dict[str, str]]:
    """Return the configuration of each topic, without partitions and replication factor. It is defined only here.

    Each configuration is complete, so that a broker's own defaults, such as a retention by size, have no effect.
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
        topics.outbox: common | {"cleanup.policy": "compact"},
        **{topics.name_events(name): for_days(family.kept_days) for name, family in FAMILIES.items()},
    }


def compute_partition_counts(topics: Topics, lanes: int) -> dict[str, int]:
    """Return the partitions of each topic: as many as lanes in the lane topics, as its family says, else one."""
    counts = dict.fromkeys(list_lane_topics(topics), lanes)
    counts |= {topics.name_events(name): family.partitions for name, family in FAMILIES.items()}
    return {name: counts.get(name, 1) for name in make_topic_configs(topics)}


def list_lane_topics(topics: Topics) -> tuple[str, str, str]:
    """Return the topics with a partition for each lane, payments.intents last.

    Add partitions in this order: then no intent enters a new lane before the other topics have the lane's partition.
    """
    return topics.journal, topics.quarantine, topics.intents


def make_topics(
    kafka: Kafka, topics: Topics, lanes: int, replication: Replication, retention: Retention | None = None
) -> list[str]:
    """Create the missing topics and wait until the broker lists them. Return the names of the created topics.

    Raise TopicError if the broker is away, if there are fewer lanes than asked for, if the lane topics have different
    numbers of partitions, or if another topic has a wrong number. Lanes that were added later are accepted.
    """
    admin = AdminClient(kafka.make_client_options())
    counts = compute_partition_counts(topics, lanes)
    wanted = [
        NewTopic(
            name,
            num_partitions=counts[name],
            replication_factor=replication.factor,
            config=config,
        )
        for name, config in make_topic_configs(topics, replication, retention).items()
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
    found = _read_partition_counts(admin, list(wanted))
    by_lane = {name: found[name] for name in list_lane_topics(topics)}
    most, least = max(by_lane.values()), wanted[topics.intents]
    if len(set(by_lane.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in by_lane.items())
        raise TopicError(
            f"The topics have different numbers of partitions ({counts}): make them the same by"
            f" `ledgerline lanes add {most}`."
        )
    if most < least:
        raise TopicError(
            f"There are {most} lanes and LEDGERLINE_LANES asks for {least}: a deploy adds none, so run"
            f" `ledgerline lanes add {least}`, or set LEDGERLINE_LANES to {most}."
        )
    for name, count in found.items():
        if name not in by_lane and count != wanted[name]:
            raise TopicError(f"The topic {name} has {count} partitions and must have {wanted[name]}: make it again.")


def count_lanes(kafka: Kafka, topics: Topics) -> dict[str, int]:
    """Return the number of partitions of each lane topic. Raise TopicError if Kafka cannot tell."""
    try:
        return _read_partition_counts(AdminClient(kafka.make_client_options()), list(list_lane_topics(topics)))
    except KafkaException as error:
        raise TopicError(f"The topics at {kafka} cannot be looked at: {error.args[0].str()}.") from error


def add_partitions(kafka: Kafka, topic: str, total: int) -> None:
    """Grow a topic to `total` partitions and wait until the broker lists them. Do nothing if it has that many.

    From then on, partitioners map keys to other partitions. Raise TopicError if Kafka refuses.
    """
    admin = AdminClient(kafka.make_client_options())
    try:
        if _read_partition_counts(admin, [topic])[topic] < total:
            made = admin.create_partitions([NewPartitions(topic, total)], operation_timeout=ADMIN_SECONDS_MAX)
            made[topic].result(ADMIN_SECONDS_MAX)
        deadline = time.monotonic() + ADMIN_SECONDS_MAX
        while _read_partition_counts(admin, [topic])[topic] < total:
            if time.monotonic() > deadline:
                raise TopicError(f"Kafka does not show the new partitions of {topic}: see its log, then go on.")
    except KafkaException as error:
        raise TopicError(f"{topic} cannot have {total} partitions: {error.args[0].str()}.") from error


def _read_partition_counts(admin: AdminClient, names: list[str]) -> dict[str, int]:
    """Return the partitions of each topic. Retry if one is unknown: brokers list a topic shortly after its creation."""
    deadline = time.monotonic() + ADMIN_SECONDS_MAX
    while True:
        described = admin.describe_topics(TopicCollection(names), request_timeout=ADMIN_SECONDS_MAX)
        try:
            return {name: len(future.result(ADMIN_SECONDS_MAX).partitions) for name, future in described.items()}
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise


def register_schemas(registry: SchemaRegistry) -> dict[str, int]:
    """Register the project's schemas with their compatibility levels. Return the schema id of each subject.

    Set the level first, because some registries begin without one. Raise SchemaError if a schema is incompatible or the
    registry fails.
    """
    with make_registry_client(registry) as client:
        return {subject: _register(client, subject, level) for subject, (_, level) in SUBJECTS.items()}


def _register(client: SchemaRegistryClient, subject: str, level: str) -> int:
    """Register the schema as two texts: the one that Python's serializer looks up, and Java's if that differs."""
    refuse_invalid(subject)
    try:
        client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))
        strangers = _refuse_faults(client, subject, level)
        _register_text(client, subject, level, make_compact_text(subject), strangers)
        return _register_text(client, subject, level, read_schema_text(subject), strangers)
    except SchemaRegistryError as error:
        if error.http_status_code == 409:
            raise SchemaError(
                f"The registry refuses avro/{SUBJECTS[subject][0]} for {subject}: it breaks {level} compatibility."
            ) from error
        raise SchemaError(f"The registry did not register {subject}: {error.error_message}.") from error
    except (HTTPError, OSError) as error:
        raise SchemaError(f"The schema registry cannot be reached to register {subject}: {error}.") from error


def _register_text(client: SchemaRegistryClient, subject: str, level: str, text: str, strangers: list[int]) -> int:
    """Register one text, even if it is incompatible with versions that somebody else registered.

    In that case set the level to NONE for this one registration. Our own versions have passed our rules, which are
    stricter than the registry's.
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
    """Raise SchemaError if our rules refuse the schema after a version of ours. Else return the versions not ours."""
    own = json.loads(read_schema_text(subject))
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
        lost = list_losses(json.loads(text), own, level)
        if lost:
            raise SchemaError(
                f"avro/{SUBJECTS[subject][0]} may not follow version {version} of {subject}: {'; '.join(lost)}."
            )
    return strangers
