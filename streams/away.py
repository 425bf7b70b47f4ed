"""Find the part that is away, over connections made for this check only.

An agent waits while a part is away. Its own connections cannot tell an outage from a client that is stuck, so new
connections ask.
"""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from db.connections import TRANSIENT, connect
from domain.errors import Outage
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import make_registry_client

ANSWER_SECONDS_MAX = 5.0


def find_away(kafka: Kafka, dsn: str, role: str, registry: SchemaRegistry) -> str | None:
    """Name a part that does not answer a new connection, in the order in which they are asked; None if all answer.

    Blocks for half a minute at most, if a part accepts the connection and never answers.
    """
    try:
        with connect(dsn, role, autocommit=True, silence_seconds_max=ANSWER_SECONDS_MAX) as connection:
            connection.execute("SELECT")
    except (*TRANSIENT, Outage):
        return "Postgres"
    try:
        AdminClient({**kafka.make_client_options(), "log_level": 0}).list_topics(timeout=ANSWER_SECONDS_MAX)
    except KafkaException:
        return "Kafka"
    try:
        with make_registry_client(registry) as client:
            client.get_subjects()
    except (SchemaRegistryError, HTTPError, KafkaException, OSError):
        return "the schema registry"
    return None
