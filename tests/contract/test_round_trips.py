"""A new reader always reads an old writer's bytes; an old reader reads new bytes if the level is FULL."""

import copy
import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest
from fastavro.utils import generate_one

from domain.breaks import Break, BreakKind
from domain.topics import SUBJECTS
from producers.events import make_break_event
from runtime.schemas import parse_own_schema, read_schema_text, strip_logical_types
from tests import releases

FULL = [subject for subject, (_, level) in SUBJECTS.items() if level == "FULL_TRANSITIVE"]


def later_version(subject: str) -> dict[str, Any]:
    """Return the schema with changes of a later version: a field, a member of each nested record, a symbol."""
    schema: dict[str, Any] = strip_logical_types(json.loads(read_schema_text(subject)))
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
    old, new = parse_own_schema(subject), fastavro.parse_schema(later_version(subject), _write_hint=False)
    for _ in range(20):
        record = generate_one(old)
        found = moved(record, old, new)
        assert found["added"] is None
        assert found["note"] == "none"
        assert without(found, "added", "note") == record


@pytest.mark.parametrize("subject", FULL)
def test_bytes_of_the_next_version_are_read_by_the_old_one(subject: str) -> None:
    old, new = parse_own_schema(subject), fastavro.parse_schema(later_version(subject), _write_hint=False)
    for _ in range(20):
        record = generate_one(old)  # a record of the old schema, written with the new one
        assert moved({**record, "added": "new"}, new, old) == record


def test_a_symbol_that_is_not_known_reads_as_unknown() -> None:
    old = parse_own_schema("ledger.journal-value")
    new = fastavro.parse_schema(later_version("ledger.journal-value"), _write_hint=False)
    record = generate_one(old)
    assert moved({**record, "outcome": "novel"}, new, old) == {**record, "outcome": "unknown"}


def test_a_rename_by_alias_keeps_the_value_and_one_without_loses_it() -> None:
    subject = "ledger.relay-value"
    old = parse_own_schema(subject)
    record = {"lane": 3, "next_seq": 17, "head": b"\x01" * 32}
    renamed = copy.deepcopy(strip_logical_types(json.loads(read_schema_text(subject))))
    renamed["fields"][1]["name"] = "next_sequence"
    silent = fastavro.parse_schema(copy.deepcopy(renamed), _write_hint=False)
    assert moved(record, old, silent)["next_sequence"] == 0  # producers.schema_rules exists to prevent this
    renamed["fields"][1]["aliases"] = ["next_seq"]
    told = fastavro.parse_schema(renamed, _write_hint=False)
    assert moved(record, old, told)["next_sequence"] == 17


NEW = ("ledger.frame-value", *(subject for subject in SUBJECTS if ".events-" in subject))
"""Subjects that the previous release does not have."""


def released_schema(folder: Path, subject: str) -> Any:
    """Return the subject's schema from the previous release."""
    file, _ = SUBJECTS[subject]
    path = folder / "avro" / file
    return strip_logical_types(json.loads(path.read_text()))


@pytest.mark.parametrize("subject", sorted({*FULL} - {*NEW}))
def test_this_release_and_the_one_before_read_each_other(subject: str, tmp_path: Path) -> None:
    before = released_schema(releases.unpack(tmp_path), subject)
    now = strip_logical_types(json.loads(read_schema_text(subject)))
    record = generate_one(now)
    for writer, reader in ((now, before), (before, now)):
        sent = record if writer is now else moved(record, now, before)
        received = moved(sent, writer, reader)
        shared = received.keys() & sent.keys()
        assert {name: received[name] for name in shared} == {name: sent[name] for name in shared}
        assert received.keys() == {field["name"] for field in reader["fields"]}


def test_a_break_of_the_release_before_does_not_say_when_it_is_overdue(tmp_path: Path) -> None:
    before = released_schema(releases.unpack(tmp_path), "ledger.breaks-value")
    now = strip_logical_types(json.loads(read_schema_text("ledger.breaks-value")))
    item = Break(UUID(int=1), "audit", "chain", "lane 1", "open", 1, 7, "It differs.", {}, 1_000_000, 2_000_000)
    _, record = make_break_event(item)
    assert record["overdue_time"] == 1_000_000 + BreakKind.CHAIN.term_seconds * 1_000_000
    old = moved(record, now, before)
    assert "overdue_time" not in old
    assert moved(old, before, now)["overdue_time"] is None
