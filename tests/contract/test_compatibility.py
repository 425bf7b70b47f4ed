"""What may follow a schema: asked of the real registry, under subjects that are thrown away."""

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.schema_registry import SchemaRegistry
from domain.topics import SUBJECTS
from ops.embedded.stack import Endpoints
from producers.compatibility import MEDIA_TYPE, Verdict, judge_all, registered_all
from producers.deploy import register_schemas
from producers.encoding import SchemaError, schema_text
from producers.schema_rules import losses

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


# A change; whether the registry alone lets it pass at each level; what our own rule finds lost.
CHANGES: list[tuple[Change, dict[str, bool], str]] = [
    (add_defaulted, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, ""),
    (add_required, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}, ""),
    (remove_required, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": False}, "the field required was removed"),
    (change_type, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}, ""),
    (remove_symbol_and_default, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}, "the symbol b of probe"),
    (rename_record, {"BACKWARD_TRANSITIVE": False, "FULL_TRANSITIVE": False}, ""),
    (add_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, ""),
    (rename_with_alias, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, ""),
    # With a default on every field and enum, registries let these pass at any level: hence our own rule.
    (remove_defaulted, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, "was removed, or renamed without"),
    (rename, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, "was removed, or renamed without"),
    (remove_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, "the symbol b of probe"),
    (rename_symbol, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, "the symbol b of probe"),
    (drop_default, {"BACKWARD_TRANSITIVE": True, "FULL_TRANSITIVE": True}, "lost its default"),
]


def grounds(subject: str) -> dict[str, Any]:
    """A project schema, with a required field and an enum more, so that every change can be made to it."""
    schema: dict[str, Any] = json.loads(schema_text(subject))
    schema["fields"].append({"name": "required", "type": "string"})
    kind = {"type": "enum", "name": "Probe", "symbols": ["unknown", "a", "b"], "default": "unknown"}
    schema["fields"].append({"name": "probe", "type": kind, "default": "unknown"})
    return schema


class ThrowAway:
    """A registry's subjects that are deleted at the end."""

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
        """The HTTP status of an attempt to register."""
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
    for found in registered_all(stack.registry):
        assert (found.level, found.is_current) == (SUBJECTS[found.subject][1], True)
    assert {judgement.verdict for judgement in judge_all(stack.registry)} == {Verdict.SAME}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_registry_refuses_what_breaks_the_level(registry: ThrowAway, subject: str) -> None:
    level = SUBJECTS[subject][1]
    old = grounds(subject)
    for change, passes, _ in CHANGES:
        throw_away = registry.subject(level)
        assert registry.register(throw_away, old) == 200
        new = copy.deepcopy(old)
        change(new)
        assert new != old
        assert registry.register(throw_away, new) == (200 if passes[level] else 409), change.__name__


@pytest.mark.parametrize("subject", SUBJECTS)
def test_our_own_rule_refuses_what_loses_something(subject: str) -> None:
    old = grounds(subject)
    assert losses(old, old) == []
    for change, _, expected in CHANGES:
        new = copy.deepcopy(old)
        change(new)
        found = losses(old, new)
        assert len(found) == (1 if expected else 0), change.__name__
        assert all(expected in loss for loss in found), change.__name__


def test_losses_are_found_in_nested_records_unions_and_arrays() -> None:
    old = json.loads(schema_text("ledger.journal-value"))
    new = copy.deepcopy(old)
    legs = next(field for field in new["fields"] if field["name"] == "legs")
    leg_fields = legs["type"]["items"]["fields"]
    amount = next(field for field in leg_fields if field["name"] == "amount_minor")
    amount["name"] = "amount"
    direction = next(field for field in leg_fields if field["name"] == "direction")
    direction["type"]["symbols"].remove("credit")
    assert losses(old, new) == [
        "the symbol credit of legs.direction was removed or renamed",
        "the field legs.amount_minor was removed, or renamed without an alias",
    ]
    nested = {"type": "record", "name": "In", "fields": [{"name": "a", "type": "int", "default": 0}]}
    holder = {"type": "record", "name": "Out", "fields": [{"name": "in", "type": ["null", nested], "default": None}]}
    emptied = copy.deepcopy(holder)
    emptied["fields"][0]["type"][1]["fields"] = []  # type: ignore[index]
    assert losses(holder, emptied) == ["the field in.a was removed, or renamed without an alias"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [(add_required, "added"), (rename, "the field lane was removed, or renamed without an alias")],
)
def test_check_and_register_refuse_and_name_the_subject_and_why(
    registry: ThrowAway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Change, cause: str
) -> None:
    subject = registry.subject("FULL_TRANSITIVE")
    old = json.loads(schema_text("ledger.relay-value"))
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
