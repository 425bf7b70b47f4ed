"""An outbox with relays: appends events as a capability does, and reads what a consumer gets."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Message

from db.connections import connect
from db.outbox import EncodedEvent, OutboxStore, append
from domain.events import FAMILIES, Event, name_subject
from domain.topics import SUBJECTS, Topics
from producers.deploy import register_schemas
from producers.event_encoding import EventEncoders
from producers.relay_core import RelayOptions
from producers.relay_outbox import OutboxRelay
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import parse_own_schema, read_body
from runtime.settings import Settings
from tests.posting_bench import eventually, read_partition
from tests.registered import find_encoders

FAMILY = "transaction"
SUBJECT = name_subject(FAMILY, "NoteChanged")
SCHEMA = {
    "type": "record",
    "name": "NoteChanged",
    "namespace": f"ledgerline.{FAMILY}",
    "fields": [{"name": "text", "type": "string", "default": ""}],
}


@cache
def find_event_encoders(registry: SchemaRegistry, subjects: frozenset[str]) -> EventEncoders:
    """Register all schemas, once for each set of subjects: the registry keeps them for the session."""
    register_schemas(registry)
    return EventEncoders.find_registered(registry)


DAY_SECONDS = 24 * 60 * 60.0


def add_schema(folder: Path, subjects: Mapping[str, Any] = SUBJECTS) -> dict[str, Any]:
    """Write the tests' event schema to a file; return the subjects with it."""
    file = folder / "note_changed.avsc"
    file.write_text(json.dumps(SCHEMA))
    return {**subjects, SUBJECT: (str(file), "FULL_TRANSITIVE")}


class OutboxBench:
    """Appends as ledgerline_api, and makes relays as the service makes them."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self.topics = topics
        self.kafka: Kafka = settings.make_kafka(str(settings.kafka_bootstrap))
        registry = settings.make_registry(str(settings.registry_url))
        self.dsn: str = settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
        self.encoders = find_event_encoders(registry, frozenset(SUBJECTS))
        self._encode_position = find_encoders(registry).position
        self._made: list[OutboxRelay] = []

    def close(self) -> None:
        """Close all relays."""
        for made in self._made:
            made.close()

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection as the API's role."""
        return connect(self.dsn, "ledgerline_api")

    def encode(self, aggregate: str, version: int, text: str = "", **changes: Any) -> EncodedEvent:
        """Return an event of tenant default."""
        event = Event(FAMILY, "NoteChanged", "default", aggregate, version, {"text": text}, 1_000_000 * version)
        return self.encoders.encode(event._replace(**changes))

    def append(self, *encoded: EncodedEvent) -> None:
        """Append events in one transaction."""
        with self.connect() as connection:
            append(connection, encoded)

    def relay(self, *, fault: Fault = cause_no_fault, kept_seconds: float = DAY_SECONDS, **options: Any) -> OutboxRelay:
        """Make another relay, not started yet."""
        store = OutboxStore(self.dsn)
        made = OutboxRelay(
            store, self._encode_position, RelayOptions(self.kafka, self.topics, **options), kept_seconds, fault=fault
        )
        self._made.append(made)
        return made

    def rows(self) -> list[tuple[int, int, str, int]]:
        """Return lane, seq, aggregate and version of all events in Postgres, in order of lane and seq."""
        with psycopg.connect(self.dsn) as admin:
            query = "SELECT lane, seq, aggregate, version FROM outbox.event ORDER BY lane, seq"
            return admin.execute(query).fetchall()

    def published(self, count: int) -> list[tuple[int, Message]]:
        """Return the partition and the message of each event, once `count` can be read, in order of the partitions."""
        found: list[tuple[int, Message]] = []

        def read() -> bool:
            found[:] = [
                (partition, message)
                for partition in range(FAMILIES[FAMILY].partitions)
                for message in read_partition(self.kafka, self.topics.name_events(FAMILY), partition)
            ]
            return len(found) >= count

        # A commit is done when its coordinator has stored it. The partitions learn of it a moment later.
        eventually(read, "what was committed can be read")
        return found


def read_texts(messages: Iterable[Message]) -> list[str]:
    """Return the texts of events."""
    schema = parse_own_schema(SUBJECT)
    return [read_body(message.value(), schema)["text"] for message in messages]


def relay_all(relay: OutboxRelay) -> int:
    """Run rounds until nothing is left; return how many events were published."""
    total = 0
    while done := relay.round():
        total += done
    return total
