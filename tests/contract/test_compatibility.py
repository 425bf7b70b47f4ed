"""Which schema changes the real registry accepts, tried under subjects that are deleted afterwards."""

import copy
import io
import json
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from confluent_kafka.schema_registry import (
    Schema,
    topic_record_subject_name_strategy,
    topic_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from domain.outcomes import QuarantineReason
from domain.topics import SUBJECTS
from ops.embedded.stack import Endpoints
from producers.compatibility import MEDIA_TYPE, Verdict, judge_all, list_registered
from producers.deploy import register_schemas
from producers.schema_rules import list_losses
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import (
    AVRO_FOLDER,
    SchemaError,
    make_compact_text,
    make_registry_client,
    parse_own_schema,
    read_schema_text,
)
from streams.decode import IntentDecoder, Undecodable

Change = Callable[[dict[str, Any]], None]


def add_defaulted(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "added", "type": ["null", "string"], "default": None})


def add_required(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "added", "type": "string"})


def remove_required(schema: dict[str, Any]) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "required"]


def change_type(schema: dict[str, Any]) -> None:
    schema["fields"][0] |= {"type": "boolean", "default": False}


def remove_defaulted(schema: dict[str, Any]) -> None:
    schema["fields"].pop(0)


def rename(schema: dict[str, Any]) -> None:
    schema["fields"][0]["name"] = "renamed"


def rename_with_alias(schema: dict[str, Any]) -> None:
    schema["fields"][0]["aliases"] = [schema["fields"][0]["name"]]
    rename(schema)


def drop_default(schema: dict[str, Any]) -> None:
    del schema["fields"][0]["default"]


def remove_symbol(schema: dict[str, Any]) -> None:
    _enum(schema)["symbols"].remove("b")


def rename_symbol(schema: dict[str, Any]) -> None:
    _enum(schema)["symbols"][-1] = "c"


def add_symbol(schema: dict[str, Any]) -> None:
    _enum(schema)["symbols"].append("c")


def remove_symbol_and_default(schema: dict[str, Any]) -> None:
    remove_symbol(schema)
    del _enum(schema)["default"]


def rename_record(schema: dict[str, Any]) -> None:
    schema["name"] = "Other"


def _enum(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(field["type"] for field in schema["fields"] if field["name"] == "probe")
    return found


# A change, and whether the registry alone accepts it at each level.
CHANGES: list[tuple[Change, dict[str, bool]]] = [
    (add_defaulted, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (add_required, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}),
    (remove_required, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": False}),
    (change_type, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}),
    (remove_symbol_and_default, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}),
    (rename_record, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}),
    (add_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (rename_with_alias, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    # If every field and enum has a default, registries accept these at any level. That is why we have our own rules.
    (remove_defaulted, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (rename, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (remove_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (rename_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
    (drop_default, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}),
]


def grounds(subject: str) -> dict[str, Any]:
    """Return a project schema with an extra required field and an extra enum, so that every change can be applied."""
    schema: dict[str, Any] = json.loads(read_schema_text(subject))
    schema["fields"].append({"name": "required", "type": "string"})
    kind = {"type": "enum", "name": "Probe", "symbols": ["unknown", "a", "b"], "default": "unknown"}
    schema["fields"].append({"name": "probe", "type": kind, "default": "unknown"})
    return schema


class ThrowAway:
    """Subjects of a registry that are deleted at the end."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.subjects: list[str] = []
        self.client = httpx.Client(headers={"Content-Type": MEDIA_TYPE}, timeout=20)

    def subject(self, level: str) -> str:
        name = f"contract-{uuid.uuid4().hex[:10]}-value"
        self.subjects.append(name)
        self.client.put(f"{self.url}/config/{name}", json={"compatibility": level}).raise_for_status()
        return name

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """Try to register a schema; return the HTTP status."""
        body = {"schema": json.dumps(schema), "schemaType": "AVRO"}
        return self.client.post(f"{self.url}/subjects/{subject}/versions", json=body).status_code

    def close(self) -> None:
        for name in self.subjects:
            self.client.delete(f"{self.url}/subjects/{name}")
            self.client.delete(f"{self.url}/subjects/{name}", params={"permanent": "true"})
        self.client.close()


@pytest.fixture
def registry(stack: Endpoints) -> Iterator[ThrowAway]:
    """Throw-away subjects of the session's registry."""
    made = ThrowAway(stack.registry_url)
    yield made
    made.close()


def test_every_project_schema_registers_at_its_level(stack: Endpoints) -> None:
    ids = register_schemas(stack.registry)
    assert ids.keys() == SUBJECTS.keys()
    assert register_schemas(stack.registry) == ids
    for found in list_registered(stack.registry):
        assert (found.level, found.is_current) == (SUBJECTS[found.subject][1], True)
    assert {judgement.verdict for judgement in judge_all(stack.registry)} == {Verdict.SAME}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_registry_refuses_what_breaks_the_level(registry: ThrowAway, subject: str) -> None:
    level = SUBJECTS[subject][1]
    old = grounds(subject)
    for change, passes in CHANGES:
        throw_away = registry.subject(level)
        assert registry.register(throw_away, old) == 200
        new = copy.deepcopy(old)
        change(new)
        assert new != old
        assert registry.register(throw_away, new) == (200 if passes[level] else 409), change.__name__


def test_losses_are_found_in_nested_records_unions_and_arrays() -> None:
    old = json.loads(read_schema_text("ledger.journal-value"))
    new = copy.deepcopy(old)
    legs = next(field for field in new["fields"] if field["name"] == "legs")
    leg_fields = legs["type"]["items"]["fields"]
    amount = next(field for field in leg_fields if field["name"] == "amount_minor")
    amount["name"] = "amount"
    direction = next(field for field in leg_fields if field["name"] == "direction")
    direction["type"]["symbols"].remove("credit")
    assert list_losses(old, new) == [
        "the symbol credit of legs.direction was removed or renamed",
        "the field legs.amount_minor was removed, or renamed without an alias",
    ]
    nested = {"type": "record", "name": "In", "fields": [{"name": "a", "type": "int", "default": 0}]}
    holder = {"type": "record", "name": "Out", "fields": [{"name": "in", "type": ["null", nested], "default": None}]}
    emptied = copy.deepcopy(holder)
    emptied["fields"][0]["type"][1]["fields"] = []  # type: ignore[index]
    assert list_losses(holder, emptied) == ["the field in.a was removed, or renamed without an alias"]


def test_the_stock_serializer_finds_each_schema_without_registering(stack: Endpoints) -> None:
    """It looks up the text of the file. Java looks up the text that Avro's library writes, which is found too."""
    ids = register_schemas(stack.registry)
    with make_registry_client(stack.registry) as client:
        for subject, (file, _) in SUBJECTS.items():
            text = (AVRO_FOLDER / file).read_text()
            # A topic of events has several types, so its subjects are named by topic and record.
            is_value = subject.endswith("-value")
            strategy = topic_subject_name_strategy if is_value else topic_record_subject_name_strategy
            conf = {"auto.register.schemas": False, "subject.name.strategy": strategy}
            serializer = AvroSerializer(client, text, conf=conf)
            topic = subject.removesuffix("-value") if is_value else subject.split("-")[0]
            context = SerializationContext(topic, MessageField.VALUE)
            framed = serializer(empty_record(subject), context)
            assert framed is not None
            assert struct.unpack_from(">bI", framed) == (0, ids[subject])
            assert client.lookup_schema(subject, Schema(make_compact_text(subject), "AVRO")).schema_id
    assert register_schemas(stack.registry) == ids


def empty_record(subject: str) -> dict[str, Any]:
    """Return a record with all the defaults."""
    schema = parse_own_schema(subject)
    empty = {"type": "record", "name": schema["name"], "fields": []}
    made: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(b""), empty, schema)
    binary = {
        field["name"] for field in schema["fields"] if field["type"] == "bytes"
    }  # fastavro returns their defaults as text
    return {name: value.encode() if name in binary else value for name, value in made.items()}


def test_an_intent_in_a_strangers_other_unit_is_no_intent(registry: ThrowAway, stack: Endpoints) -> None:
    """Milliseconds would be read as microseconds: the value date would be in 1970."""
    own = read_schema_text("payments.intents-value")
    text = own.replace("timestamp-micros", "timestamp-millis")
    subject = registry.subject("BACKWARD")
    body = {"schema": text, "schemaType": "AVRO"}
    schema_id = registry.client.post(f"{registry.url}/subjects/{subject}/versions", json=body).json()["id"]
    decoder = IntentDecoder(stack.registry)
    try:
        with pytest.raises(Undecodable, match="value_time changed its unit") as refused:
            decoder.decode(struct.pack(">bI", 0, schema_id) + b"\x00")
    finally:
        decoder.close()
    assert refused.value.reason is QuarantineReason.WRONG_SCHEMA


@pytest.mark.parametrize("level", ["BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"])
def test_what_a_stranger_registers_blocks_no_deploy(
    registry: ThrowAway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str
) -> None:
    subject = registry.subject(level)
    file = tmp_path / "ours.avsc"
    file.write_text(read_schema_text("ledger.relay-value"))
    monkeypatch.setitem(SUBJECTS, subject, (str(file), level))
    register_schemas(SchemaRegistry(registry.url))
    strangers = json.loads(file.read_text())
    strangers["fields"].append({"name": "added", "type": ["null", "string"], "default": None})
    with make_registry_client(SchemaRegistry(registry.url)) as client:
        serializer = AvroSerializer(client, json.dumps(strangers), conf={"auto.register.schemas": True})
        context = SerializationContext(subject.removesuffix("-value"), MessageField.VALUE)
        assert serializer(empty_record("ledger.relay-value") | {"added": "theirs"}, context) is not None

    ours = json.loads(file.read_text())
    ours["fields"].append({"name": "added", "type": "long", "default": 0})
    file.write_text(json.dumps(ours))
    assert registry.register(subject, ours) == 409  # the registry alone refuses
    (judged,) = (found for found in judge_all(SchemaRegistry(registry.url)) if found.subject == subject)
    assert judged.verdict is Verdict.COMPATIBLE
    assert "which Ledgerline never had" in judged.cause
    schema_id = register_schemas(SchemaRegistry(registry.url))[subject]
    found = registry.client.get(f"{registry.url}/schemas/ids/{schema_id}").json()["schema"]
    assert json.loads(found) == ours
    assert registry.client.get(f"{registry.url}/config/{subject}").json() == {"compatibilityLevel": level}


def test_check_and_register_say_what_is_wrong_with_a_file(
    registry: ThrowAway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = registry.subject("FULL_TRANSITIVE")
    file = tmp_path / "broken.avsc"
    monkeypatch.setitem(SUBJECTS, subject, (str(file), "FULL_TRANSITIVE"))
    whole = read_schema_text("ledger.relay-value")
    for text, why in (
        (whole[:-1], "it is no JSON"),
        (whole.replace('"default": 0', '"default": "0"'), "no value of its"),
    ):
        file.write_text(text)
        (judged,) = (found for found in judge_all(SchemaRegistry(registry.url)) if found.subject == subject)
        assert judged.verdict is Verdict.REFUSED
        assert why in judged.cause
        with pytest.raises(SchemaError, match=f"broken.avsc cannot be registered: .*{why}"):
            register_schemas(SchemaRegistry(registry.url))


@pytest.mark.parametrize(
    ("change", "cause"),
    [(add_required, "added"), (rename, "the field lane was removed, or renamed without an alias")],
)
def test_check_and_register_refuse_and_name_the_subject_and_why(
    registry: ThrowAway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Change, cause: str
) -> None:
    subject = registry.subject("FULL_TRANSITIVE")
    old = json.loads(read_schema_text("ledger.relay-value"))
    assert registry.register(subject, old) == 200
    new = copy.deepcopy(old)
    change(new)
    file = tmp_path / "changed.avsc"
    file.write_text(json.dumps(new))
    monkeypatch.setitem(SUBJECTS, subject, (str(file), "FULL_TRANSITIVE"))

    verdicts = {judgement.subject: judgement for judgement in judge_all(SchemaRegistry(registry.url))}
    assert verdicts[subject].verdict is Verdict.REFUSED
    assert cause in verdicts[subject].cause
    with pytest.raises(SchemaError, match=f"{file.name}.*{subject}"):
        register_schemas(SchemaRegistry(registry.url))
    versions = registry.client.get(f"{registry.url}/subjects/{subject}/versions").json()
    assert len(versions) == 1


def test_an_unknown_subject_is_new_and_a_registry_that_is_away_is_told(
    registry: ThrowAway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUBJECTS, f"contract-{uuid.uuid4().hex}-value", SUBJECTS["ledger.relay-value"])
    assert [
        found.verdict for found in judge_all(SchemaRegistry(registry.url)) if found.subject.startswith("contract-")
    ] == [Verdict.NEW]
    with pytest.raises(SchemaError, match="did not answer"):
        judge_all(SchemaRegistry("http://127.0.0.1:1"))
