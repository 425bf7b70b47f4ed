"""Topics as code on a real broker: each difference is shown, and only safe differences are changed."""

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from domain.events import FAMILIES
from domain.topics import Topics
from runtime.settings import Settings
from tests.command_line import environment, run, run_json
from tests.posting_bench import eventually

DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def admin(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": settings.kafka_bootstrap})


@pytest.fixture
def variables(settings: Settings) -> Iterator[dict[str, str]]:
    return environment(settings)


def alter(admin: AdminClient, topic: str, **changes: str) -> None:
    """Set properties of a topic; each `_` in a name stands for a dot."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in changes.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def property_of(admin: AdminClient, topic: str, name: str) -> str:
    """Return a property as the broker has it."""
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return str(future.result(30)[name].value)


def found(variables: dict[str, str]) -> list[tuple[str, str, str, str | None, str]]:
    """Return the rows that `topics diff` shows; it must exit with code 1."""
    rows = run_json(variables, "topics", "diff", code=1)
    return [tuple(row[key] for key in ("topic", "property", "wanted", "found", "remedy")) for row in rows]


def test_topics_that_prepare_makes_are_as_described(variables: dict[str, str]) -> None:
    assert run_json(variables, "topics", "diff") == []
    assert "are as described" in run(variables, "topics", "diff").stdout
    assert run_json(variables, "topics", "apply") == {"changed": [], "left": []}


def test_what_lets_nothing_go_is_changed(variables: dict[str, str], topics: Topics, admin: AdminClient) -> None:
    alter(admin, topics.intents, retention_ms=str(DAY_MS), compression_type="gzip")
    alter(admin, topics.journal, retention_bytes="1000000", max_message_bytes="2000000")
    assert found(variables) == [
        (topics.intents, "compression.type", "producer", "gzip", "change"),
        (topics.intents, "retention.ms", str(30 * DAY_MS), str(DAY_MS), "change"),
        (topics.journal, "max.message.bytes", "1048588", "2000000", "change"),
        (topics.journal, "retention.bytes", "-1", "1000000", "change"),
    ]
    told = run(variables, "topics", "apply").stdout
    assert f"{topics.journal}: retention.bytes 1000000 is now -1" in told
    assert run_json(variables, "topics", "diff") == []
    assert property_of(admin, topics.journal, "retention.bytes") == "-1"


def test_what_lets_records_go_is_changed_only_where_that_is_asked_for(
    variables: dict[str, str], topics: Topics, admin: AdminClient
) -> None:
    alter(admin, topics.breaks, retention_ms="-1", min_insync_replicas="2")
    alter(admin, topics.relay, cleanup_policy="delete")
    kept = run_json(variables, "topics", "apply", code=1)
    assert kept["changed"] == []
    assert {(row["topic"], row["property"], row["remedy"]) for row in kept["left"]} == {
        (topics.breaks, "retention.ms", "change with loss"),
        (topics.breaks, "min.insync.replicas", "change with loss"),
        (topics.relay, "cleanup.policy", "change with loss"),
    }
    shown = " ".join(run(variables, "topics", "diff", code=1).stdout.split())
    assert "apply --allow-loss" in shown
    assert property_of(admin, topics.breaks, "retention.ms") == "-1"
    run(variables, "topics", "apply", "--allow-loss")
    assert property_of(admin, topics.breaks, "retention.ms") == str(90 * DAY_MS)
    assert property_of(admin, topics.relay, "cleanup.policy") == "compact"


def test_settings_are_what_is_described(variables: dict[str, str], topics: Topics, admin: AdminClient) -> None:
    changed = variables | {"LEDGERLINE_INTENTS_RETENTION_DAYS": "45", "LEDGERLINE_QUARANTINE_RETENTION_DAYS": "30"}
    assert found(changed) == [
        (topics.intents, "retention.ms", str(45 * DAY_MS), str(30 * DAY_MS), "change"),
        (topics.quarantine, "retention.ms", str(30 * DAY_MS), str(90 * DAY_MS), "change with loss"),
    ]
    run(changed, "topics", "apply", code=1)
    assert property_of(admin, topics.intents, "retention.ms") == str(45 * DAY_MS)
    assert property_of(admin, topics.quarantine, "retention.ms") == str(90 * DAY_MS)


def test_a_topic_that_is_missing_is_made(variables: dict[str, str], topics: Topics, admin: AdminClient) -> None:
    for future in admin.delete_topics([topics.breaks]).values():
        future.result(30)
    eventually(lambda: topics.breaks not in admin.list_topics().topics, "it is gone")
    assert found(variables) == [(topics.breaks, "topic", "there", None, "make")]
    assert f"{topics.breaks}: topic made" in run(variables, "topics", "apply").stdout
    assert run_json(variables, "topics", "diff") == []


def test_partitions_and_copies_are_left_to_those_who_do_it_in_order(
    variables: dict[str, str], topics: Topics, admin: AdminClient
) -> None:
    for future in admin.create_partitions([NewPartitions(topics.intents, 3)]).values():
        future.result(30)
    eventually(lambda: len(admin.list_topics(topics.intents).topics[topics.intents].partitions) == 3, "three are there")
    left = run_json(variables | {"LEDGERLINE_REPLICATION_FACTOR": "3"}, "topics", "apply", code=1)["left"]
    lanes = [row for row in left if row["property"] == "partitions"]
    assert {(row["topic"], row["wanted"], row["found"]) for row in lanes} == {
        (topics.journal, "3", "2"),
        (topics.quarantine, "3", "2"),
    }
    assert all("`ledgerline lanes add 3`" in row["meaning"] for row in lanes)
    copies = [row for row in left if row["property"] == "replication factor"]
    assert {row["topic"] for row in copies} == {
        topics.intents, topics.journal, topics.relay, topics.quarantine, topics.breaks, topics.frame,
        topics.checkpoints, topics.outbox, *(topics.name_events(family) for family in FAMILIES),
    }  # fmt: skip
    assert all("kafka-reassign-partitions" in row["meaning"] for row in copies)
