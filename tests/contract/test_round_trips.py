"""Bytes of one version read by another: an old writer by a new reader always, the reverse where the level is FULL."""

import copy
import io
import json
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_one

from domain.topics import SUBJECTS
from producers.encoding import parsed_schema, schema_text, without_logical_types

FULL = [subject for subject, (_, level) in SUBJECTS.items() if level == "FULL_TRANSITIVE"]


def later_version(subject: str) -> dict[str, Any]:
    """The schema with what a later version may bring: a field, a member of each nested record, a symbol."""
    schema: dict[str, Any] = without_logical_types(json.loads(schema_text(subject)))
    _grow(schema)
    schema["fields"].append({"name": "added", "type": ["null", "string"], "default": None})
    return schema


def _grow(schema: Any) -> None:
    for branch in schema if isinstance(schema, list) else [schema]:
        if isinstance(branch, dict):
            if branch["type"] == "record":
                for field in branch["fields"]:
                    _grow(field["type"])
                branch["fields"].append({"name": "note", "type": "string", "default": "none"})
            elif branch["type"] == "enum":
                branch["symbols"].append("novel")
            elif branch["type"] == "array":
                _grow(branch["items"])


def moved(record: dict[str, Any], writer: Any, reader: Any) -> dict[str, Any]:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, writer, record)
    body.seek(0)
    found: dict[str, Any] = fastavro.schemaless_reader(body, writer, reader)
    assert body.read() == b""
    return found


def without(record: Any, *names: str) -> Any:
    if isinstance(record, dict):
        return {name: without(value, *names) for name, value in record.items() if name not in names}
    if isinstance(record, list):
        return [without(value, *names) for value in record]
    return record


@pytest.mark.parametrize("subject", SUBJECTS)
def test_old_bytes_are_read_by_the_next_version(subject: str) -> None:
    old, new = parsed_schema(subject), fastavro.parse_schema(later_version(subject), _write_hint=False)
    for _ in range(20):
        record = generate_one(old)
        found = moved(record, old, new)
        assert found["added"] is None
        assert found["note"] == "none"
        assert without(found, "added", "note") == record


@pytest.mark.parametrize("subject", FULL)
def test_bytes_of_the_next_version_are_read_by_the_old_one(subject: str) -> None:
    old, new = parsed_schema(subject), fastavro.parse_schema(later_version(subject), _write_hint=False)
    for _ in range(20):
        record = generate_one(old)  # what the old one knows, written by the new one
        assert moved({**record, "added": "new"}, new, old) == record


def test_a_symbol_that_is_not_known_reads_as_unknown() -> None:
    old = parsed_schema("ledger.journal-value")
    new = fastavro.parse_schema(later_version("ledger.journal-value"), _write_hint=False)
    record = generate_one(old)
    assert moved({**record, "outcome": "novel"}, new, old) == {**record, "outcome": "unknown"}


def test_a_rename_by_alias_keeps_the_value_and_one_without_loses_it() -> None:
    subject = "ledger.relay-value"
    old = parsed_schema(subject)
    record = {"lane": 3, "next_seq": 17, "head": b"\x01" * 32}
    renamed = copy.deepcopy(without_logical_types(json.loads(schema_text(subject))))
    renamed["fields"][1]["name"] = "next_sequence"
    silent = fastavro.parse_schema(copy.deepcopy(renamed), _write_hint=False)
    assert moved(record, old, silent)["next_sequence"] == 0  # what producers.schema_rules is for
    renamed["fields"][1]["aliases"] = ["next_seq"]
    told = fastavro.parse_schema(renamed, _write_hint=False)
    assert moved(record, old, told)["next_sequence"] == 17
