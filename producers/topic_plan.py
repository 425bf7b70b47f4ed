"""Topics as code: compare the topics of a cluster with their description, and make the safe changes.

producers.deploy has the description. Nothing here deletes a topic. A change that can lose records, or that lets fewer
copies acknowledge them, is made only on explicit request. Partitions and replicas of existing topics never change.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from domain.topics import Topics
from producers.deploy import (
    ADMIN_SECONDS_MAX,
    Replication,
    Retention,
    TopicError,
    compute_partition_counts,
    list_lane_topics,
    make_topic_configs,
    make_topics,
)
from runtime.kafka import Kafka

FOR_EVER: Final = -1


class Remedy(StrEnum):
    """What `apply` does about a difference."""

    MAKE = "make"
    CHANGE = "change"
    CHANGE_WITH_LOSS = "change with loss"
    BY_HAND = "by hand"


@dataclass(frozen=True)
class Difference:
    """One property of a topic that is not as described; `found` is None if the topic does not exist."""

    topic: str
    property: str
    wanted: str
    found: str | None
    remedy: Remedy
    meaning: str
    """A sentence that says what the change means, or how to make it."""


@dataclass(frozen=True)
class Described:
    """The topics as they should be."""

    topics: Topics
    lanes: int
    replication: Replication
    retention: Retention

    def configs(self) -> dict[str, dict[str, str]]:
        """Return the configuration of each topic."""
        return make_topic_configs(self.topics, self.replication, self.retention)


def find_differences(kafka: Kafka, described: Described) -> list[Difference]:
    """Return the cluster's differences from the description, by topic. Raise TopicError if they cannot be read."""
    admin = AdminClient({**kafka.make_client_options(), "log_level": 0, "error_cb": lambda _: None})
    try:
        there = _read_partitions(admin, described)
        configs = _read_configs(admin, list(there))
    except (KafkaException, TimeoutError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        raise TopicError(f"The topics at {kafka} cannot be looked at: {cause}.") from error
    lanes = max((there[name][0] for name in list_lane_topics(described.topics) if name in there), default=0)
    found = []
    for name, wanted in described.configs().items():
        if name not in there:
            found.append(Difference(name, "topic", "there", None, Remedy.MAKE, "It is made as it is described."))
            continue
        found += _find_count_differences(described, name, there[name], lanes)
        found += [
            _make_config_difference(name, property_, value, configs[name].get(property_, ""))
            for property_, value in wanted.items()
            if configs[name].get(property_) != value
        ]
    return found


def apply(kafka: Kafka, described: Described, *, with_loss: bool = False) -> tuple[list[Difference], list[Difference]]:
    """Make the topics as described, as far as that is safe. Return the changed and the remaining differences.

    `with_loss` also allows changes that can lose records. Raise TopicError if the cluster refuses.
    """
    differing = find_differences(kafka, described)
    doable = {Remedy.MAKE, Remedy.CHANGE} | ({Remedy.CHANGE_WITH_LOSS} if with_loss else set())
    changed = [difference for difference in differing if difference.remedy in doable]
    if any(difference.remedy is Remedy.MAKE for difference in changed):
        make_topics(kafka, described.topics, described.lanes, described.replication, described.retention)
    resources: dict[str, list[ConfigEntry]] = {}
    for difference in changed:
        if difference.remedy is not Remedy.MAKE:
            entry = ConfigEntry(difference.property, difference.wanted, incremental_operation=AlterConfigOpType.SET)
            resources.setdefault(difference.topic, []).append(entry)
    if resources:
        _alter(kafka, resources)
    return changed, [difference for difference in differing if difference not in changed]


def _alter(kafka: Kafka, resources: dict[str, list[ConfigEntry]]) -> None:
    admin = AdminClient(kafka.make_client_options())
    wanted = [
        ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name, entries in resources.items()
    ]
    try:
        for future in admin.incremental_alter_configs(wanted, request_timeout=ADMIN_SECONDS_MAX).values():
            future.result(ADMIN_SECONDS_MAX)
    except (KafkaException, TimeoutError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        raise TopicError(f"The topics at {kafka} could not be changed: {cause}.") from error


def _read_partitions(admin: AdminClient, described: Described) -> dict[str, tuple[int, int]]:
    """Return the number of partitions of each topic that exists, and the fewest copies of any partition."""
    names = list(described.configs())
    there = {}
    asked = admin.describe_topics(TopicCollection(names), request_timeout=ADMIN_SECONDS_MAX)
    for name, future in asked.items():
        try:
            partitions = future.result(ADMIN_SECONDS_MAX).partitions
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            continue
        there[name] = (len(partitions), min(len(partition.replicas) for partition in partitions))
    return there


def _read_configs(admin: AdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Return all effective properties of each topic, including defaults."""
    if not names:
        return {}
    asked: dict[Any, Any] = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=ADMIN_SECONDS_MAX
    )
    return {
        resource.name: {entry.name: entry.value for entry in future.result(ADMIN_SECONDS_MAX).values()}
        for resource, future in asked.items()
    }


def _find_count_differences(described: Described, name: str, found: tuple[int, int], lanes: int) -> list[Difference]:
    partitions, copies = found
    # Lanes that were added later are no difference.
    follows_lanes = name in list_lane_topics(described.topics)
    wanted = max(described.lanes, lanes) if follows_lanes else compute_partition_counts(described.topics, lanes)[name]
    differing = []
    if partitions != wanted:
        meaning = (
            f"Lanes are added by `ledgerline lanes add {wanted}`, which keeps the order of each account."
            if follows_lanes
            else "Its order would break: make it anew, once nobody writes it."
        )
        differing.append(Difference(name, "partitions", str(wanted), str(partitions), Remedy.BY_HAND, meaning))
    if copies != described.replication.factor:
        meaning = "Copies are moved by Kafka's own kafka-reassign-partitions."
        factor = str(described.replication.factor)
        differing.append(Difference(name, "replication factor", factor, str(copies), Remedy.BY_HAND, meaning))
    return differing


def _make_config_difference(topic: str, name: str, wanted: str, found: str) -> Difference:
    loss = _find_loss(name, wanted, found)
    remedy, meaning = (Remedy.CHANGE, "It can be changed at any time.") if loss is None else loss
    return Difference(topic, name, wanted, found, remedy, meaning)


def _find_loss(name: str, wanted: str, found: str) -> tuple[Remedy, str] | None:
    """Return the remedy and its meaning if the change of a property can lose records, else None."""
    shorter = name in ("retention.ms", "retention.bytes") and wanted != str(FOR_EVER)
    if shorter and (found == str(FOR_EVER) or int(found) > int(wanted)):
        return Remedy.CHANGE_WITH_LOSS, "Kafka then deletes the records that are older, for good."
    if name == "min.insync.replicas" and int(found) > int(wanted):
        return Remedy.CHANGE_WITH_LOSS, "Records then count with fewer copies, and are lost with them."
    if name == "cleanup.policy":
        what = "keeps the last record of each key alone" if wanted == "compact" else "deletes by age"
        return Remedy.CHANGE_WITH_LOSS, f"Kafka then {what}."
    return None
