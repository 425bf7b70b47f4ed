"""The ACLs of each principal in Kafka, from ops/kafka_rights.json; `ledgerline prepare --kafka-rights` grants them."""

import json
import re
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from domain.errors import LedgerlineError
from runtime.kafka import Kafka
from runtime.kafka_positions import make_admin_client

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
"""The user `prepare` has the operator's rights too: the Job of ops/kubernetes runs as that separate user."""


def rights(topic_prefix: str, user_prefix: str = "") -> list[AclBinding]:
    """Return the ACLs of a ledger whose topics have `topic_prefix`, for users whose names have `user_prefix`."""
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
    """Create all ACLs and return their number; harmless to repeat. Raise LedgerlineError if Kafka refuses."""
    wanted = rights(topic_prefix, user_prefix)
    client = make_admin_client(kafka)  # kept until all futures are done: a collected client drops its requests
    for future in client.create_acls(wanted, request_timeout=_ANSWER_SECONDS).values():
        try:
            future.result(_ANSWER_SECONDS)
        except KafkaException as error:
            told = error.args[0]
            advice = _ADVICE.get(told.code(), "look at the brokers' logs")
            raise LedgerlineError(f"Kafka does not create rights ({told.str()}): {advice}.") from error
    return len(wanted)


def _is_prefix(name: str, topic_prefix: str) -> bool:
    """Tell whether a name is a prefix: it ends with a star, but is not `*` alone, which is Kafka's name for all."""
    return name.endswith("*") and name.replace("$P", topic_prefix) != "*"
