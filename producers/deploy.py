"""The deploy step: topics made and schemas registered before anything runs; no service does either."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import ConfigCompatibilityLevel, Schema, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from domain.errors import LedgerlineError
from domain.topics import SUBJECTS, Topics
from producers.encoding import SchemaError, registry_client, schema_text
from producers.schema_rules import losses

DAY_MS: Final = 24 * 60 * 60 * 1000
FOR_EVER: Final = {"retention.ms": "-1", "cleanup.policy": "delete"}
ADMIN_SECONDS_MAX: Final = 30.0
# A message of payments.intents is at most 1 MiB by Kafka's default; in quarantine its key stands there twice.
QUARANTINED_BYTES_MAX: Final = 4 * 1024 * 1024


class TopicError(LedgerlineError):
    """Topics could not be made, or stand otherwise than they must."""


@dataclass(frozen=True)
class Replication:
    """How new topics are kept: copies, and how many of them must have a record before it counts."""

    factor: int = 1
    min_insync: int = 1


def topic_configs(topics: Topics) -> dict[str, dict[str, str]]:
    """The configuration of each topic, beside partitions and replication; every writer waits for all in-sync copies."""
    return {
        topics.intents: {"retention.ms": str(30 * DAY_MS), "cleanup.policy": "delete"},
        topics.journal: FOR_EVER,
        topics.relay: {"cleanup.policy": "compact"},
        topics.quarantine: {
            "retention.ms": str(90 * DAY_MS),
            "cleanup.policy": "delete",
            "max.message.bytes": str(QUARANTINED_BYTES_MAX),
        },
        topics.breaks: {"retention.ms": str(90 * DAY_MS), "cleanup.policy": "delete"},
        topics.checkpoints: FOR_EVER,
    }


def partition_counts(topics: Topics, lanes: int) -> dict[str, int]:
    """Lanes have one partition each in the three topics that follow them; the others have one."""
    by_lane = {topics.intents, topics.journal, topics.quarantine}
    return {name: lanes if name in by_lane else 1 for name in topic_configs(topics)}


def make_topics(bootstrap: str, topics: Topics, lanes: int, replication: Replication) -> list[str]:
    """Make the topics that are missing, and wait until the broker tells of them; returns the names made.

    TopicError where the broker is away, or where a topic that follows the lanes has another number of partitions.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    counts = partition_counts(topics, lanes)
    wanted = [
        NewTopic(
            name,
            num_partitions=counts[name],
            replication_factor=replication.factor,
            config={**config, "min.insync.replicas": str(replication.min_insync)},
        )
        for name, config in topic_configs(topics).items()
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
        _check_partitions(admin, counts)
    except KafkaException as error:
        raise TopicError(f"The topics could not be made at {bootstrap}: {error.args[0].str()}.") from error
    return made


def _check_partitions(admin: AdminClient, counts: Mapping[str, int]) -> None:
    for name, found in _partition_counts(admin, list(counts)).items():
        if found != counts[name]:
            raise TopicError(
                f"The topic {name} has {found} partitions and {counts[name]} are asked for:"
                f" set LEDGERLINE_LANES={found}, as lanes are not added by a deploy."
            )


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


def register_schemas(registry_url: str) -> dict[str, int]:
    """Register the project's schemas with their compatibility levels; returns the id of each subject.

    The level is set first, as some registries begin with none. SchemaError where one is refused as incompatible.
    """
    with registry_client(registry_url) as registry:
        return {subject: _register(registry, subject, level) for subject, (_, level) in SUBJECTS.items()}


def _register(registry: SchemaRegistryClient, subject: str, level: str) -> int:
    try:
        registry.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel(level)))
        _refuse_losses(registry, subject)
        return int(registry.register_schema(subject, Schema(schema_text(subject), "AVRO")))
    except SchemaRegistryError as error:
        if error.http_status_code == 409:
            raise SchemaError(
                f"The registry refuses avro/{SUBJECTS[subject][0]} for {subject}: it breaks {level} compatibility."
            ) from error
        raise SchemaError(f"The registry did not register {subject}: {error.error_message}.") from error
    except (HTTPError, OSError) as error:
        raise SchemaError(f"The schema registry cannot be reached to register {subject}: {error}.") from error


def _refuse_losses(registry: SchemaRegistryClient, subject: str) -> None:
    """SchemaError where the project's schema lost what a version has, which the registry itself would not mind."""
    own = json.loads(schema_text(subject))
    try:
        versions = registry.get_versions(subject)
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            return  # the subject's first version
        raise
    for version in versions:
        held = registry.get_version(subject, version).schema
        lost = losses(json.loads(held.schema_str), own) if held is not None and held.schema_str else []
        if lost:
            raise SchemaError(
                f"avro/{SUBJECTS[subject][0]} may not follow version {version} of {subject}: {'; '.join(lost)}."
            )
