"""The Kafka rights in the code match the table in docs/SECURITY.md."""

import json
import re

import pytest
from confluent_kafka.admin import AclOperation, ResourcePatternType, ResourceType

from domain.events import FAMILIES
from domain.topics import Topics
from ops.kafka_rights import rights
from runtime.settings import REPOSITORY_ROOT


def test_the_table_and_the_data_are_one() -> None:
    text = (REPOSITORY_ROOT / "docs" / "SECURITY.md").read_text()
    table = text.partition("## The rights of each service in Kafka")[2].partition("\n## ")[0]
    shown = [
        {
            "principal": principal,
            "kind": re.sub(r"s$", "", resources.partition(" `")[0]),
            "names": re.findall(r"`([^`]+)`", resources),
            "operations": operations.split(", "),
        }
        for principal, resources, operations in re.findall(r"^\| (\w+) \| (.+) \| ([A-Z].+) \|$", table, re.MULTILINE)
    ]
    assert shown == json.loads((REPOSITORY_ROOT / "ops" / "kafka_rights.json").read_text())
    assert {row["principal"] for row in shown} > {"upstream", "posting", "operator"}


@pytest.mark.parametrize(
    ("topic_prefix", "user_prefix", "user", "name", "pattern"),
    [
        ("", "", "User:upstream", "payments.intents", ResourcePatternType.LITERAL),
        ("eu.", "ledgerline-", "User:ledgerline-upstream", "eu.payments.intents", ResourcePatternType.LITERAL),
        ("eu.", "", "User:operator", "eu.", ResourcePatternType.PREFIXED),
        ("eu.", "", "User:prepare", "eu.", ResourcePatternType.PREFIXED),
        ("", "", "User:operator", "*", ResourcePatternType.LITERAL),
    ],
)
def test_a_right_is_of_a_user_and_a_topic(
    topic_prefix: str, user_prefix: str, user: str, name: str, pattern: ResourcePatternType
) -> None:
    found = [
        row
        for row in rights(topic_prefix, user_prefix)
        if (row.principal, row.restype) == (user, ResourceType.TOPIC) and row.operation is AclOperation.WRITE
    ]
    assert [(row.name, row.resource_pattern_type) for row in found] == [(name, pattern)]


def test_every_right_is_one_right() -> None:
    assert len(set(rights("", ""))) == len(rights("", ""))
    assert {row.operation for row in rights("", "") if row.principal == "User:upstream"} == {
        AclOperation.DESCRIBE,
        AclOperation.WRITE,
    }


def test_the_worker_alone_publishes_every_family_and_reads_it() -> None:
    """A new family needs its topic in the worker's rows, or its events wait in the outbox for ever."""
    wanted = {Topics("").name_events(family) for family in FAMILIES}
    for operation in (AclOperation.READ, AclOperation.WRITE):
        allowed = {
            (row.principal, row.name)
            for row in rights("", "")
            if row.restype is ResourceType.TOPIC and row.name.endswith(".events") and row.operation is operation
        }
        assert allowed == {("User:worker", topic) for topic in wanted}, operation


def test_who_writes_intents_in_no_transaction_and_who_has_transactions() -> None:
    writers = {
        row.principal
        for row in rights("", "")
        if (row.restype, row.name, row.operation) == (ResourceType.TOPIC, "payments.intents", AclOperation.WRITE)
    }
    transactional = {row.principal: row.name for row in rights("", "") if row.restype is ResourceType.TRANSACTIONAL_ID}
    assert transactional == {"User:relay": "ledgerline-relay", "User:worker": "ledgerline-outbox"}
    assert writers == {"User:upstream", "User:api", "User:worker"}
