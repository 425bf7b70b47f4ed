"""The project's own schemas (avro/): their texts, their parsed form, and their ids in the Schema Registry."""

import io
import json
from functools import cache
from typing import Any, Final, cast

import fastavro
from confluent_kafka import KafkaException
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx import HTTPError

from domain.errors import Outage
from domain.topics import SUBJECTS
from runtime.schema_registry import SchemaRegistry
from runtime.settings import REPOSITORY_ROOT
from runtime.wire_format import FRAME

AVRO_FOLDER: Final = REPOSITORY_ROOT / "avro"


class SchemaError(Outage):
    """The registry lacks a schema, refuses one, or cannot be reached."""


def read_schema_text(subject: str) -> str:
    """Return the project's own schema of a subject: its file in avro/ without the white space around it.

    Some registries find a schema only by the exact text that was registered, and confluent-kafka's AvroSerializer
    strips the text before it looks it up.
    """
    return (AVRO_FOLDER / SUBJECTS[subject][0]).read_text().strip()


def make_compact_text(subject: str) -> str:
    """Return the schema as Avro's Java library writes it (`Schema.toString()`): Java's serializer looks that up."""
    return json.dumps(
        _sort_as_java_does(json.loads(read_schema_text(subject))), separators=(",", ":"), ensure_ascii=False
    )


def _sort_as_java_does(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_sort_as_java_does(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    first: tuple[str, ...] = (
        "type",
        "name",
        "namespace",
        "doc",
        "fields",
        "symbols",
        "items",
        "values",
        "size",
        "default",
    )
    if "type" in schema and "name" in schema and not schema.keys() & {"fields", "symbols", "size"}:  # a field
        first = ("name", "type", "doc", "default")
    names = [name for name in first if name in schema] + [name for name in schema if name not in first]
    return {name: schema[name] if name == "default" else _sort_as_java_does(schema[name]) for name in names}


def strip_logical_types(schema: Any) -> Any:
    """Return the schema with plain longs and strings, so that decoded times stay integers of microseconds."""
    if isinstance(schema, dict):
        return {name: strip_logical_types(value) for name, value in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [strip_logical_types(value) for value in schema]
    return schema


@cache
def parse_own_schema(subject: str) -> Any:
    """Return the parsed schema of a subject, without logical types.

    The result has fastavro's mark of a parsed schema. Without it, fastavro parses the schema again for each record.
    """
    return fastavro.parse_schema(strip_logical_types(json.loads(read_schema_text(subject))))


def make_registry_client(registry: SchemaRegistry) -> SchemaRegistryClient:
    """Return a client with bounded timeout and retries. Use it in a `with` statement: it holds connections."""
    options: dict[str, Any] = {"url": registry.url, "timeout": 10, "max.retries": 2}
    if registry.username is not None:
        options["basic.auth.user.info"] = f"{registry.username}:{registry.password or ''}"
    if registry.ca_file is not None:
        options["ssl.ca.location"] = str(registry.ca_file)
    elif registry.url.lower().startswith("http://") and "https:" not in registry.url.lower():
        # Without TLS there is no certificate to verify, and to load the system's authorities takes 40 ms a client.
        options["ssl.ca.location"] = False
    return SchemaRegistryClient(options)


def find_registered_id(registry: SchemaRegistryClient, subject: str) -> int:
    """Return the registry's id of the project's schema. Raise SchemaError if it has none. Never register a schema."""
    try:
        found = registry.lookup_schema(subject, Schema(read_schema_text(subject), "AVRO"))
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            raise SchemaError(f"Schema {subject} is not registered: run `ledgerline schemas register`.") from error
        raise SchemaError(f"The schema registry refused to look up {subject}: {error.error_message}.") from error
    except (HTTPError, KafkaException, OSError) as error:
        raise SchemaError(f"The schema registry cannot be reached to look up {subject}: {error}.") from error
    return cast("int", found.schema_id)


def find_latest_id(registry: SchemaRegistryClient, subject: str) -> int:
    """Return the registry's id of a subject's latest version, whosever it is. Raise SchemaError if there is none."""
    try:
        return int(registry.get_latest_version(subject).schema_id)
    except (SchemaRegistryError, HTTPError, KafkaException, OSError) as error:
        raise SchemaError(f"The schema registry does not tell of {subject}: {error}.") from error


def read_body(value: bytes, schema: Any) -> dict[str, Any]:
    """Return the record of framed bytes that were written with exactly this parsed schema, such as our own."""
    return cast("dict[str, Any]", fastavro.schemaless_reader(io.BytesIO(value[FRAME.size :]), schema, None))
