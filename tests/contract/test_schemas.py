"""The schemas in avro/ alone: defaults, default symbols, docs, names, and no other files in the folder."""

import io
import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import fastavro
import pytest

from domain.outcomes import Outcome
from domain.topics import SUBJECTS
from runtime.schemas import AVRO_FOLDER, parse_own_schema, read_schema_text
from runtime.settings import REPOSITORY_ROOT

FILES = sorted(path.relative_to(AVRO_FOLDER).as_posix() for path in AVRO_FOLDER.rglob("*") if path.is_file())


def schema_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((AVRO_FOLDER / file).read_text())
    return found


def named_types(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every record and enum in a schema, with the path to it."""
    for branch in schema if isinstance(schema, list) else [schema]:
        if not isinstance(branch, dict):
            continue
        if branch["type"] in ("record", "enum"):
            yield path or branch["name"], branch
        for field in branch.get("fields", ()):
            yield from named_types(field["type"], f"{path}.{field['name']}" if path else field["name"])
        for member in ("items", "values"):
            yield from named_types(branch.get(member), path)


def test_avro_holds_schemas_and_nothing_else() -> None:
    assert sorted(file for file, _ in SUBJECTS.values()) == FILES


def test_the_package_avro_stays_importable() -> None:
    spec = find_spec("avro")
    ours = (
        spec is not None
        and spec.submodule_search_locations is not None
        and any(str(AVRO_FOLDER) == str(folder) for folder in spec.submodule_search_locations)
    )
    # A folder without __init__.py gives way to an installed package of that name.
    assert spec is None or spec.origin is not None or ours
    assert not list(AVRO_FOLDER.rglob("*.py"))
    assert not list(AVRO_FOLDER.rglob("__pycache__"))


@pytest.mark.parametrize("file", FILES)
def test_every_field_has_a_default(file: str) -> None:
    records = [(path, found) for path, found in named_types(schema_of(file)) if found["type"] == "record"]
    without = [
        f"{path}: {field['name']}" for path, found in records for field in found["fields"] if "default" not in field
    ]
    assert without == []


@pytest.mark.parametrize("file", FILES)
def test_every_enum_has_a_default_symbol_that_means_nothing(file: str) -> None:
    for path, found in named_types(schema_of(file)):
        if found["type"] == "enum":
            assert found["default"] == "unknown" == found["symbols"][0], path


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_doc_says_kind_topic_and_compatibility(subject: str) -> None:
    file, level = SUBJECTS[subject]
    doc = schema_of(file)["doc"]
    assert subject.removesuffix("-value") in doc
    assert level in doc


@pytest.mark.parametrize("file", FILES)
def test_names_follow_the_folder(file: str) -> None:
    schema = schema_of(file)
    assert schema["namespace"] == f"ledgerline.{file.split('/', maxsplit=1)[0]}"
    words = file.split("/")[1].removesuffix(".avsc").split("_")
    assert schema["name"] == "".join(word.capitalize() for word in words)


@pytest.mark.parametrize("file", FILES)
def test_money_is_a_long_and_times_are_microseconds(file: str) -> None:
    text = (AVRO_FOLDER / file).read_text()
    assert '"double"' not in text
    assert '"float"' not in text
    assert "timestamp-millis" not in text
    for _, found in named_types(schema_of(file)):
        for field in found.get("fields", ()):
            if field["name"].endswith("_minor"):
                assert field["type"] in ("long", ["null", "long"]), field["name"]
            if field["name"].endswith("_time"):
                assert "timestamp-micros" in json.dumps(field["type"]), field["name"]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_record_without_any_field_reads_as_the_defaults(subject: str) -> None:
    schema = parse_own_schema(subject)
    empty = {"type": "record", "name": schema["name"], "fields": []}
    made = fastavro.schemaless_reader(io.BytesIO(b""), empty, schema)
    assert set(made) == {field["name"] for field in schema["fields"]}


def test_a_journal_record_begins_with_lane_and_seq() -> None:
    # streams.posting.published reads these two fields of any version, without asking the registry for the version.
    first, second, *_ = schema_of("ledger/journal_record.avsc")["fields"]
    assert (first["name"], first["type"], second["name"], second["type"]) == ("lane", "int", "seq", "long")


def test_the_journal_knows_every_outcome() -> None:
    enums = {
        path: found for path, found in named_types(schema_of("ledger/journal_record.avsc")) if found["type"] == "enum"
    }
    assert set(enums["outcome"]["symbols"]) == {"unknown"} | {outcome.value for outcome in Outcome}


def test_schema_text_is_the_file_without_the_newline_at_its_end() -> None:
    for subject, (file, _) in SUBJECTS.items():
        assert read_schema_text(subject) == (REPOSITORY_ROOT / "avro" / file).read_text().strip()
