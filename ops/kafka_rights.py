"""What each principal may do in Kafka, from ops/kafka_rights.json; granted by `ledgerline prepare --kafka-rights`."""

import json
import re
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from domain.errors import LedgerlineError
from runtime.kafka import Kafka
from runtime.kafka_positions import admin_client

_FILE: Final = Path(__file__).parent / "kafka_rights.json"
_ANSWER_SECONDS: Final = 30.0
_RESOURCES: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}
_ADVICE: Final = {
    KafkaError.SECURITY_DISABLED: "its brokers need an authorizer",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "whoever runs this needs the right Alter of the cluster",
}
_ALSO: Final = {"operator": ("operator", "prepare")}
"""Whoever runs `prepare` has the operator's rights: the Job of ops/kubernetes has a user of its own."""


def rights(topic_prefix: str, user_prefix: str = "") -> list[AclBinding]:
    """Return the rights of a ledger whose topics have the one prefix, for users whose names have the other one."""
    return [
        AclBinding(
            _RESOURCES[row["kind"]],
            name.replace("$P", topic_prefix).removesuffix("*") or "*",
            ResourcePatternType.PREFIXED if _is_prefix(name, topic_prefix) else ResourcePatternType.LITERAL,
            f"User:{user_prefix}{user}",
            "*",
            AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()],
            AclPermissionType.ALLOW,
        )
        for row in json.loads(_FILE.read_text())
        for name in row["names"]
        for user in _ALSO.get(row["principal"], (row["principal"],))
        for operation in row["operations"]
    ]


def grant(kafka: Kafka, topic_prefix: str, user_prefix: str) -> int:
    """Create all rights, and return how many there are; harmless to repeat. LedgerlineError where Kafka refuses."""
    wanted = rights(topic_prefix, user_prefix)
    client = admin_client(kafka)  # kept until all have answered: a client that nobody holds drops what was asked
    for future in client.create_acls(wanted, request_timeout=_ANSWER_SECONDS).values():
        try:
            future.result(_ANSWER_SECONDS)
        except KafkaException as error:
            told = error.args[0]
            advice = _ADVICE.get(told.code(), "look at the brokers' logs")
            raise LedgerlineError(f"Kafka does not create rights ({told.str()}): {advice}.") from error
    return len(wanted)


def _is_prefix(name: str, topic_prefix: str) -> bool:
    """A star at the end is a prefix, but for the one that has nothing before it: `*` is Kafka's own name for all."""
    return name.endswith("*") and name.replace("$P", topic_prefix) != "*"
