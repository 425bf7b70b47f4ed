"""Reading topics: raw messages, and records by the writer's schema that the registry has under the frame's id."""

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

from tools.chaos.oracle.model import Asked, Leg, OracleError, Raw, Record, Unreadable

KAFKA_SECONDS_MAX: Final = 60.0
MESSAGES_AT_ONCE: Final = 5000
FRAME_BYTES: Final = 5
_PLAIN_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class TopicReader:
    """Reads whole partitions; one consumer for what is committed and one for all that is there."""

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
        """The partitions of a topic; OracleError where there is no such topic."""
        try:
            found = self._raw.list_topics(topic, timeout=KAFKA_SECONDS_MAX).topics[topic]
        except KafkaException as error:
            raise OracleError(f"Kafka does not tell of {topic}: {error}.") from error
        if found.error is not None:
            raise OracleError(f"Kafka does not tell of {topic}: {found.error}.")
        return sorted(found.partitions)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The lowest offset that is kept, and the next that will be given, committed or not."""
        try:
            low, high = self._raw.get_watermark_offsets(TopicPartition(topic, partition), timeout=KAFKA_SECONDS_MAX)
        except KafkaException as error:
            raise OracleError(f"Kafka does not tell where {topic} [{partition}] ends: {error}.") from error
        return int(low), int(high)

    def read(self, topic: str, partition: int, *, committed: bool) -> Iterator[Raw]:
        """All messages from the first that is kept to the present end; OracleError where the end is not reached.

        A read_committed reader stops before a transaction that is still open: it is waited for, as what an agent that
        was killed left open is aborted by its successor or by the broker.
        """
        consumer = self._committed if committed else self._raw
        low, end = self.bounds(topic, partition)
        if low == end:
            return
        consumer.assign([TopicPartition(topic, partition, low)])
        deadline = time.monotonic() + KAFKA_SECONDS_MAX
        try:
            while time.monotonic() < deadline:
                for message in consumer.consume(MESSAGES_AT_ONCE, 0.02):
                    error = message.error()
                    if error is None:
                        # As long as messages come, there is time for the next.
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


class Registry:
    """Schemas by id, as the registry has them; each is asked for once."""

    def __init__(self, registry_url: str) -> None:
        self._client = httpx.Client(base_url=registry_url, timeout=30.0)
        self._schemas: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def decode(self, value: bytes | None, name: str) -> dict[str, Any] | Unreadable:
        """The record of this full name in framed bytes, or why there is none; times stay integers."""
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
        except Exception:  # noqa: BLE001 - whatever bytes make a decoder raise, they are no record
            return Unreadable("undecodable")
        if body.tell() != len(value) or not isinstance(record, dict):
            return Unreadable("undecodable")
        return record

    def _fetch(self, schema_id: int) -> Any:
        """The parsed schema; None where the registry has no such id, {} where it is no Avro schema."""
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
    """The canonical form of a UUID; ValueError where the text is none."""
    return text if _PLAIN_UUID.fullmatch(text) else str(UUID(text))


def asked_of(record: dict[str, Any] | Unreadable) -> Asked | Unreadable:
    """The intent in a decoded PaymentIntent; what lacks a field or has an id that is no UUID is none."""
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
    """The journal record in a decoded JournalRecord."""
    if isinstance(record, Unreadable):
        return record
    try:
        return Record(**{**{name: record[name] for name in Record._fields}, "legs": _legs(record)})
    except KeyError:
        return Unreadable("undecodable")
