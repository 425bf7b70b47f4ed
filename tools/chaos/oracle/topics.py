"""Read topics: raw messages, and records decoded with the writer's schema, by the schema id in the frame."""

import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final, Self
from uuid import UUID

import fastavro
import httpx
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import TopicMetadata

from tools.chaos.oracle.model import Asked, Leg, OracleError, Raw, Record, Unreadable

KAFKA_SECONDS_MAX: Final = 60.0
MESSAGES_AT_ONCE: Final = 5000
FRAME_BYTES: Final = 5
_PLAIN_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class TopicReader:
    """A reader of whole partitions, with one read_committed and one read_uncommitted consumer."""

    def __init__(self, bootstrap: str) -> None:
        options = {
            "bootstrap.servers": bootstrap,
            "group.id": "ledgerline-oracle",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
        self._raw = Consumer({**options, "isolation.level": "read_uncommitted"})
        self._committed = Consumer({**options, "isolation.level": "read_committed"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self._committed.close()

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic. Raise OracleError if there is no such topic."""
        found = _describe(self._raw, topic)
        if found.error is not None:
            raise OracleError(f"Kafka does not describe {topic}: {found.error}.")
        return sorted(found.partitions)

    def has(self, topic: str) -> bool:
        """Return whether there is such a topic."""
        return _describe(self._raw, topic).error is None

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the lowest offset that is kept and the next offset to be written, committed or not."""
        try:
            low, high = self._raw.get_watermark_offsets(TopicPartition(topic, partition), timeout=KAFKA_SECONDS_MAX)
        except KafkaException as error:
            raise OracleError(f"Kafka does not report the end of {topic} [{partition}]: {error}.") from error
        return int(low), int(high)

    def read(self, topic: str, partition: int, *, committed: bool) -> Iterator[Raw]:
        """Yield all messages from the lowest kept offset to the present end.

        Raise OracleError if the end is not reached in time. A read_committed consumer stops before an open transaction.
        Wait for the transaction to end: if a killed agent left it open, the agent's successor or the broker aborts it.
        """
        consumer = self._committed if committed else self._raw
        low, end = self.bounds(topic, partition)
        if low == end:
            return
        # By itself a consumer asks only once a second for topics that it does not know yet.
        _describe(consumer, topic)
        consumer.assign([TopicPartition(topic, partition, low)])
        deadline = time.monotonic() + KAFKA_SECONDS_MAX
        try:
            while time.monotonic() < deadline:
                for message in consumer.consume(MESSAGES_AT_ONCE, 0.02):
                    error = message.error()
                    if error is None:
                        # Each message extends the deadline.
                        deadline = time.monotonic() + KAFKA_SECONDS_MAX
                        if message.offset() < end:
                            yield Raw(message.offset(), message.key(), message.value(), message.headers() or [])
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if message.offset() >= end:
                            return
                    elif not error.retriable():
                        raise OracleError(f"Kafka does not hand over {topic} [{partition}]: {error}.")
        finally:
            consumer.unassign()
        raise OracleError(
            f"The end {end} of {topic} [{partition}] cannot be read: end the transaction that is open there first."
        )


def _describe(consumer: Consumer, topic: str) -> TopicMetadata:
    try:
        return consumer.list_topics(topic, timeout=KAFKA_SECONDS_MAX).topics[topic]
    except KafkaException as error:
        raise OracleError(f"Kafka does not describe {topic}: {error}.") from error


class Registry:
    """The registry's schemas by id. Each is requested once."""

    def __init__(self, registry_url: str) -> None:
        self._client = httpx.Client(base_url=registry_url, timeout=30.0)
        self._schemas: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def decode(self, value: bytes | None, name: str) -> dict[str, Any] | Unreadable:
        """Decode framed bytes into a record of the schema `name`, or return why they are none; times stay integers."""
        if not value:
            return Unreadable("empty")
        if len(value) < FRAME_BYTES or value[0] != 0:
            return Unreadable("bad_magic")
        schema_id = int.from_bytes(value[1:FRAME_BYTES], "big")
        if schema_id not in self._schemas:
            self._schemas[schema_id] = self._fetch(schema_id)
        schema = self._schemas[schema_id]
        if schema is None:
            return Unreadable("unknown_schema")
        if not isinstance(schema, dict) or schema.get("name") != name:
            return Unreadable("wrong_schema")
        body = io.BytesIO(value)
        body.seek(FRAME_BYTES)
        try:
            record = fastavro.schemaless_reader(body, schema, None)
        except Exception:  # noqa: BLE001 - any error of the decoder means that the bytes are no record
            return Unreadable("undecodable")
        if body.tell() != len(value) or not isinstance(record, dict):
            return Unreadable("undecodable")
        return record

    def _fetch(self, schema_id: int) -> Any:
        """Return the parsed schema; None if the registry has no such id, {} if it is no Avro schema."""
        try:
            answer = self._client.get(f"/schemas/ids/{schema_id}")
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise OracleError(f"The registry does not give schema {schema_id}: {error}.") from error
        if found.get("schemaType", "AVRO") != "AVRO":
            return {}
        try:
            return fastavro.parse_schema(_without_logical_types(json.loads(found["schema"])))
        except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException):
            return {}


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _without_logical_types(part) for name, part in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [_without_logical_types(part) for part in schema]
    return schema


def _legs(record: dict[str, Any]) -> tuple[Leg, ...]:
    return tuple(
        [Leg(leg["account"], leg["direction"], leg["amount_minor"], leg["currency"]) for leg in record["legs"]]
    )


def _plain_uuid(text: str) -> str:
    """Return the canonical form of a UUID. Raise ValueError if the text is no UUID."""
    return text if _PLAIN_UUID.fullmatch(text) else str(UUID(text))


def asked_of(record: dict[str, Any] | Unreadable) -> Asked | Unreadable:
    """Return the intent in a decoded PaymentIntent; Unreadable if a field is missing or an id is no UUID."""
    if isinstance(record, Unreadable):
        return record
    try:
        reverses = record["reverses"]
        return Asked(
            _plain_uuid(record["intent_id"]),
            record["tenant"],
            record["idempotency_key"],
            record["type"],
            _legs(record),
            None if reverses is None else _plain_uuid(reverses),
            record["value_time"],
            record["reference"],
            record["metadata"],
            record["accepted_time"],
        )
    except (KeyError, ValueError):
        return Unreadable("undecodable")


def record_of(record: dict[str, Any] | Unreadable) -> Record | Unreadable:
    """Return the journal record in a decoded JournalRecord; Unreadable if a field is missing."""
    if isinstance(record, Unreadable):
        return record
    try:
        return Record(**{**{name: record[name] for name in Record._fields}, "legs": _legs(record)})
    except KeyError:
        return Unreadable("undecodable")
