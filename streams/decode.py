"""Decode the bytes of payments.intents to a domain.Intent, or to the reason why they are not an intent."""

import io
import json
import time
from collections.abc import Mapping
from typing import Any, Final

import fastavro
import structlog
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from domain.intents import Intent, make_intent
from domain.outcomes import QuarantineReason
from domain.topics import SUBJECTS
from producers.schema_rules import MEANING, find_change_faults
from runtime.avro_codec import REFUSALS, Codec
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import (
    SchemaError,
    find_registered_id,
    make_registry_client,
    parse_own_schema,
    read_schema_text,
    strip_logical_types,
)
from runtime.wire_format import FRAME, MAGIC

logger: Final = structlog.get_logger(__name__)

RECORD_NAME: Final = "ledgerline.payments.PaymentIntent"
DETAIL_CHARACTERS_MAX: Final = 300
# Short, because the next schema that someone registers may get an id that was just refused as unknown.
REFUSED_SECONDS: Final = 1.0
REFUSED_IDS_MAX: Final = 10_000


class Undecodable(Exception):
    """The bytes are not an intent. `reason` is from the closed list, and the text is a sentence."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class IntentDecoder:
    """Decodes each message by its writer's schema, resolved into the project's own schema, and caches schemas by id.

    A message is undecodable if the registry does not know its schema id. A registry that is away is an outage.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._own_schema = parse_own_schema("payments.intents-value")
        self._codec = Codec(self._own_schema)
        # schema id -> parsed writer's schema, and the schema to resolve into. The latter is None if both are the same,
        # because resolution costs as much time again as reading.
        self._schemas: dict[int, tuple[Any, Any]] = {}
        # schema id -> until when (time.monotonic()) the registry is not asked about it, and why no intent can have it.
        self._refused: dict[int, tuple[float, QuarantineReason, str]] = {}
        self._client: SchemaRegistryClient | None = None

    def decode(self, value: bytes | None) -> Intent:
        """Return the intent in these bytes; raise Undecodable if there is none, SchemaError if the registry is away."""
        if not value:
            raise Undecodable(QuarantineReason.EMPTY, "The message has no value.")
        if len(value) < FRAME.size or value[0] != MAGIC:
            raise Undecodable(QuarantineReason.BAD_MAGIC, "The value does not begin with a zero byte and a schema id.")
        schema_id = FRAME.unpack_from(value)[1]
        writer_schema, reader_schema = self._schemas.get(schema_id) or self._look_up(schema_id)
        if reader_schema is None:
            try:
                return make_intent(self._codec.read(value, FRAME.size))
            except REFUSALS:
                pass  # fastavro decides what it is
        body = io.BytesIO(value)
        body.seek(FRAME.size)
        try:
            record: Any = fastavro.schemaless_reader(body, writer_schema, reader_schema)
            if body.tell() != len(value):
                raise ValueError(f"{len(value) - body.tell()} bytes are left over")
            return make_intent(record)
        except Exception as error:  # the lane must go on, whatever a decoder raises for hostile bytes
            detail = f"The value is no {RECORD_NAME}: {type(error).__name__}: {str(error)!a}"
            raise Undecodable(QuarantineReason.UNDECODABLE, detail[:DETAIL_CHARACTERS_MAX]) from error

    def is_ready_for(self, value: bytes | None) -> bool:
        """Return whether `decode` can judge these bytes without asking the registry."""
        framed = value is not None and len(value) >= FRAME.size and value[0] == MAGIC
        return not framed or FRAME.unpack_from(value)[1] in self._schemas  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the connection to the registry; the next look-up makes a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _look_up(self, schema_id: int) -> tuple[Any, Any]:
        """Ask the registry for a schema over one connection that is kept.

        An id that was refused is not asked about for REFUSED_SECONDS, so that hostile messages cannot slow a lane down.
        """
        refused = self._refused.get(schema_id)
        if refused is not None and time.monotonic() < refused[0]:
            raise Undecodable(refused[1], refused[2])
        if self._client is None:
            self._client = make_registry_client(self._registry)
        try:
            return self._fetch(self._client, schema_id)
        except Undecodable as undecodable:
            if len(self._refused) >= REFUSED_IDS_MAX:
                self._refused.clear()
            refusal = (time.monotonic() + REFUSED_SECONDS, undecodable.reason, str(undecodable))
            self._refused[schema_id] = refusal
            raise
        except SchemaError:
            self.close()
            raise

    def _fetch(self, client: SchemaRegistryClient, schema_id: int) -> tuple[Any, Any]:
        try:
            found = client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                # Raise SchemaError if the registry lacks even our own schema: it was emptied, or is the wrong registry.
                find_registered_id(client, "payments.intents-value")
                raise Undecodable(
                    QuarantineReason.UNKNOWN_SCHEMA, f"The registry has no schema with id {schema_id}."
                ) from error
            raise SchemaError(
                f"The schema registry failed to give schema {schema_id}: {error.error_message}."
            ) from error
        except (HTTPError, OSError) as error:
            raise SchemaError(f"The schema registry cannot be reached for schema {schema_id}: {error}.") from error
        try:
            schema = strip_logical_types(json.loads(found.schema_str)) if found.schema_type == "AVRO" else None
            writer_schema = fastavro.parse_schema(schema) if _get_full_name(schema) == RECORD_NAME else None
            other = _find_other_meanings(found.schema_str) if writer_schema is not None else []
        except Exception:  # the lane must go on, whatever someone registered
            logger.exception("unusable schema", schema_id=schema_id)
            writer_schema = None
        if writer_schema is None:
            raise Undecodable(QuarantineReason.WRONG_SCHEMA, f"Schema {schema_id} is not that of {RECORD_NAME}.")
        if other:
            detail = f"Schema {schema_id} means something else than the ledger's: {'; '.join(other)}."
            raise Undecodable(QuarantineReason.WRONG_SCHEMA, detail[:DETAIL_CHARACTERS_MAX])
        known = (writer_schema, None if writer_schema == self._own_schema else self._own_schema)
        self._schemas[schema_id] = known
        return known


def _find_other_meanings(writer_text: str) -> list[str]:
    """Return how fields of the writer's schema differ from the ledger's in type or unit, such as milliseconds."""
    subject = "payments.intents-value"
    own = json.loads(read_schema_text(subject))
    found = find_change_faults(json.loads(writer_text), own, SUBJECTS[subject][1])
    return [fault.clause for fault in found if fault.rule in MEANING]


def _get_full_name(schema: Any) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    name, namespace = str(schema.get("name", "")), schema.get("namespace")
    return name if "." in name or not namespace else f"{namespace}.{name}"
