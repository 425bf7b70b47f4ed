"""Decode Avro records in the registry's wire format by the writer's schema, without the poster's decoder."""

import io
import json
from typing import Any, Final, TypedDict, cast

import fastavro
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from domain.outcomes import QuarantineReason
from runtime.avro_codec import REFUSALS, Codec
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import SchemaError, make_registry_client, parse_own_schema, strip_logical_types
from runtime.wire_format import FRAME, MAGIC

INTENTS_SUBJECT: Final = "payments.intents-value"


class LegRecord(TypedDict):
    """A leg as it stands on a topic; `direction` is debit, credit or unknown."""

    account: str
    direction: str
    amount_minor: int
    currency: str


class IntentRecord(TypedDict):
    """What a client asked, as it stands on payments.intents. Times are microseconds since 1970-01-01 UTC."""

    intent_id: str
    tenant: str
    idempotency_key: str
    type: str
    legs: list[LegRecord]
    reverses: str | None
    value_time: int | None
    reference: str | None
    metadata: dict[str, str]
    accepted_time: int


class JournalRecord(TypedDict):
    """The fate of one offset, as it stands on ledger.journal. Times are microseconds since 1970-01-01 UTC."""

    lane: int
    seq: int
    previous_hash: bytes
    hash: bytes
    outcome: str
    reason: str
    detail: str
    tenant: str | None
    intent_id: str | None
    idempotency_key: str | None
    fingerprint: bytes
    type: str | None
    reverses: str | None
    legs: list[LegRecord]
    reference: str | None
    metadata: dict[str, str]
    source_topic: str
    source_offset: int
    value_time: int | None
    booked_time: int
    signed_from: int | None
    signature: bytes | None


class Unreadable(Exception):
    """The bytes are not a record of the wanted kind. `reason` is from the closed list, and the text is a sentence."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class RecordReader:
    """Reads one kind of record. It asks the registry for each writer's schema once, and caches the schema by id."""

    _SCHEMAS_MAX: Final = 1000

    def __init__(self, registry: SchemaRegistry, subject: str) -> None:
        self._registry = registry
        self._reader_schema = parse_own_schema(subject)
        self._name = str(self._reader_schema["name"])
        # Posting reads intents by the codec. Here fastavro reads them, so an error of the codec does not hide itself.
        self._codec = None if subject == INTENTS_SUBJECT else Codec(self._reader_schema)
        # schema id -> the writer's schema, and ours if the two differ, so that missing fields get their defaults.
        self._schemas: dict[int, tuple[Any, Any]] = {}

    def read(self, value: bytes | None) -> dict[str, Any]:
        """Return the record; raise Unreadable if the bytes are not one, SchemaError if the registry is away."""
        if not value:
            raise Unreadable(QuarantineReason.EMPTY, "There are no bytes.")
        if value[0] != MAGIC or len(value) < FRAME.size:
            raise Unreadable(QuarantineReason.BAD_MAGIC, "The bytes do not begin with zero and a schema id.")
        schema_id = FRAME.unpack_from(value)[1]
        writer_schema, reader_schema = self._schemas.get(schema_id) or self._fetch(schema_id)
        if reader_schema is None and self._codec is not None:
            try:
                return self._codec.read(value, FRAME.size)
            except REFUSALS:
                pass  # fastavro decides what it is
        body = io.BytesIO(value[FRAME.size :])
        try:
            record = fastavro.schemaless_reader(body, writer_schema, reader_schema)
        except Exception as error:
            detail = f"The bytes do not decode by schema {schema_id}: {type(error).__name__}."
            raise Unreadable(QuarantineReason.UNDECODABLE, detail) from error
        if body.tell() != len(value) - FRAME.size:
            raise Unreadable(QuarantineReason.UNDECODABLE, "There are bytes past the end of the record.")
        return cast("dict[str, Any]", record)

    def _fetch(self, schema_id: int) -> tuple[Any, Any]:
        try:
            with make_registry_client(self._registry) as client:
                found = client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                raise Unreadable(
                    QuarantineReason.UNKNOWN_SCHEMA, f"The registry has no schema with id {schema_id}."
                ) from error
            raise SchemaError(f"The schema registry did not give schema {schema_id}: {error.error_message}.") from error
        except (HTTPError, OSError) as error:
            raise SchemaError(f"The schema registry cannot be reached for schema {schema_id}: {error}.") from error
        try:
            schema = fastavro.parse_schema(strip_logical_types(json.loads(found.schema_str or "")))
        except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException) as error:
            raise Unreadable(QuarantineReason.WRONG_SCHEMA, f"Schema {schema_id} is no Avro schema.") from error
        if not isinstance(schema, dict) or schema.get("name") != self._name:
            raise Unreadable(QuarantineReason.WRONG_SCHEMA, f"Schema {schema_id} is not that of {self._name}.")
        if len(self._schemas) >= self._SCHEMAS_MAX:
            self._schemas.clear()
        self._schemas[schema_id] = (schema, None if schema == self._reader_schema else self._reader_schema)
        return self._schemas[schema_id]
