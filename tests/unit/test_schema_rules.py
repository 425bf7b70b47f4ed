"""Changes to a schema, each with the verdict that a payments team wants."""

import copy
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from domain.topics import SUBJECTS
from producers.published_schemas import compute_schema_fingerprint, is_published
from producers.schema_rules import find_change_faults, find_invalidity, list_losses
from runtime.schemas import read_schema_text

Schema = dict[str, Any]
BACK, FULL = "BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"

OLD: Final[Schema] = {
    "type": "record",
    "name": "Payment",
    "namespace": "shop.money",
    "doc": "One.",
    "fields": [
        {"name": "amount_minor", "type": "long", "default": 0},
        {"name": "currency", "type": "string", "default": ""},
        {"name": "count", "type": "int", "default": 0},
        {"name": "value_time", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "raw", "type": "bytes", "default": ""},
        {"name": "rate", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2},
         "default": ""},
        {"name": "digest", "type": {"type": "fixed", "name": "Digest", "size": 2}, "default": "\u0000\u0000"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["unknown", "debit", "credit"],
                                  "default": "unknown"}, "default": "unknown"},
        {"name": "counter_kind", "type": "Kind", "default": "unknown"},
        {"name": "legs", "type": {"type": "array", "items": {"type": "record", "name": "Leg", "fields": [
            {"name": "account", "type": "string", "default": ""},
            {"name": "amount_minor", "type": "long", "default": 0},
        ]}}, "default": []},
        {"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}},
    ],
}  # fmt: skip


def field(field_name: str, /, **changed: Any) -> Callable[[Schema], None]:
    """Return a change to a field: the given members replace its own, and the member named by `drop` is removed."""

    def change(schema: Schema) -> None:
        found = next(each for each in schema["fields"] if each["name"] == field_name)
        drop = changed.get("drop")
        found.update({key: value for key, value in changed.items() if key != "drop"})
        if drop is not None:
            del found[drop]

    return change


def kind(**changed: Any) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        found = next(each for each in schema["fields"] if each["name"] == "kind")["type"]
        found.update({key: value for key, value in changed.items() if key != "drop"})
        if "drop" in changed:
            del found[changed["drop"]]

    return change


def leg(field_name: str, /, **changed: Any) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        legs = next(each for each in schema["fields"] if each["name"] == "legs")["type"]["items"]
        next(each for each in legs["fields"] if each["name"] == field_name).update(changed)

    return change


def whole(**changed: Any) -> Callable[[Schema], None]:
    return lambda schema: schema.update(changed)


def add(position: int = 99, **member: Any) -> Callable[[Schema], None]:
    return lambda schema: schema["fields"].insert(position, member)


def remove(name: str) -> Callable[[Schema], None]:
    return lambda schema: schema.update(fields=[each for each in schema["fields"] if each["name"] != name])


def swap(first: int, second: int) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        fields = schema["fields"]
        fields[first], fields[second] = fields[second], fields[first]

    return change


def both(*changes: Callable[[Schema], None]) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        for one in changes:
            one(schema)

    return change


MILLIS: Final = {"type": "long", "logicalType": "timestamp-millis"}
MICROS: Final = {"type": "long", "logicalType": "timestamp-micros"}
SYMBOLS: Final = ["unknown", "debit", "credit"]
RENAMED: Final = "amount_minor was renamed to amount, and readers of the old schema know no alias"
GONE: Final = "was removed, or renamed without an alias"

# The change, how to make it, and the reasons under BACKWARD_TRANSITIVE and FULL_TRANSITIVE. Empty means allowed,
# other text is a part of the reason.
CHANGES: Final[list[tuple[str, Callable[[Schema], None], str, str]]] = [
    ("nothing", whole(), "", ""),
    ("the doc of the record", whole(doc="Two."), "", ""),
    ("the doc of a field", field("currency", doc="ISO 4217."), "", ""),
    ("a property that Avro does not know", field("currency", owner="treasury"), "", ""),
    ("a new field with a default", add(name="fee", type="long", default=0), "", ""),
    ("a new field with a default, in the middle", add(2, name="fee", type="long", default=0), "", ""),
    ("a new field that may be null", add(name="memo", type=["null", "string"], default=None), "", ""),
    (
        "a new field that is a record",
        add(name="x", type={"type": "record", "name": "X", "fields": []}, default={}),
        "",
        "",
    ),
    (
        "a new field without a default",
        add(name="fee", type="long"),
        "new field fee has no default",
        "fee has no default",
    ),
    ("a new symbol behind", kind(symbols=[*SYMBOLS, "refund"]), "", ""),
    ("a new symbol in front", kind(symbols=["unknown", "refund", "debit", "credit"]), "", ""),
    ("symbols in another order", kind(symbols=["unknown", "credit", "debit"]), "", ""),
    ("an alias more", field("currency", aliases=["iso_code"]), "", ""),
    ("a field removed", remove("note"), f"note {GONE}", f"note {GONE}"),
    ("the money removed", remove("amount_minor"), f"amount_minor {GONE}", f"amount_minor {GONE}"),
    ("a field renamed", field("currency", name="code"), f"currency {GONE}", f"currency {GONE}"),
    ("the money renamed", field("amount_minor", name="amount"), f"amount_minor {GONE}", f"amount_minor {GONE}"),
    ("the money renamed, with an alias", field("amount_minor", name="amount", aliases=["amount_minor"]), "", RENAMED),
    (
        "a leg's money renamed",
        leg("amount_minor", name="amount"),
        f"legs.amount_minor {GONE}",
        f"legs.amount_minor {GONE}",
    ),
    ("a leg's money renamed, with an alias", leg("amount_minor", name="amount", aliases=["amount_minor"]), "", RENAMED),
    ("long to double", field("amount_minor", type="double"), "from long to double", "from long to double"),
    ("long to float", field("amount_minor", type="float"), "from long to float", "from long to float"),
    ("long to int", field("amount_minor", type="int"), "from long to int", "from long to int"),
    ("long to string", field("amount_minor", type="string", default=""), "from long to string", "from long to string"),
    (
        "a leg's long to double",
        leg("amount_minor", type="double"),
        "legs.amount_minor changed its type",
        "long to double",
    ),
    ("int to long", field("count", type="long"), "", "count changed its type from int to long"),
    ("int to float", field("count", type="float"), "from int to float", "from int to float"),
    ("int to double", field("count", type="double"), "from int to double", "from int to double"),
    ("string to bytes", field("currency", type="bytes"), "from string to bytes", "from string to bytes"),
    ("bytes to string", field("raw", type="string"), "from bytes to string", "from bytes to string"),
    (
        "micros to millis",
        field("value_time", type=MILLIS),
        "unit from timestamp-micros to timestamp-millis",
        "unit from",
    ),
    ("micros to a bare long", field("value_time", type="long"), "unit from timestamp-micros to none", "unit from"),
    ("a bare long to micros", field("amount_minor", type=MICROS), "unit from none to timestamp-micros", "unit from"),
    (
        "micros to local micros",
        field("value_time", type=MICROS | {"logicalType": "local-timestamp-micros"}),
        "to local-timestamp-micros",
        "to local-timestamp-micros",
    ),
    (
        "a decimal's scale",
        field("rate", type={"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 4}),
        "from decimal(18, 2) to decimal(18, 4)",
        "from decimal(18, 2) to decimal(18, 4)",
    ),
    (
        "a decimal's precision",
        field("rate", type={"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        "to decimal(9, 2)",
        "to decimal(9, 2)",
    ),
    (
        "a fixed's size",
        field("digest", type={"type": "fixed", "name": "Digest", "size": 4}, default="\u0000" * 4),
        "from 2 to 4 bytes",
        "from 2 to 4 bytes",
    ),
    ("a default changed", field("currency", default="EUR"), 'its default from "" to "EUR"', 'from "" to "EUR"'),
    ("the money's default changed", field("amount_minor", default=1), "its default from 0 to 1", "from 0 to 1"),
    ("a default removed", field("currency", drop="default"), "currency lost its default", "currency lost its default"),
    (
        "a default that is equal in Python alone",
        both(field("count", type="boolean", default=False)),
        "changed its type from int to boolean",
        "changed its type from int to boolean",
    ),
    ("an enum's default removed", kind(drop="default"), "kind lost its default symbol", "kind lost its default symbol"),
    ("an enum's default changed", kind(default="debit"), "its default symbol from unknown to debit", "to debit"),
    ("a symbol removed", kind(symbols=["unknown", "debit"]), "symbol credit of kind was removed", "symbol credit"),
    (
        "a symbol renamed",
        kind(symbols=["unknown", "debit", "cr"]),
        "symbol credit of kind was removed",
        "symbol credit",
    ),
    ("a record renamed", whole(name="Payout"), "shop.money.Payment is now called shop.money.Payout", "is now called"),
    ("a record renamed, with an alias", whole(name="Payout", aliases=["Payment"]), "is now called", "is now called"),
    ("a namespace renamed", whole(namespace="shop.cash"), "is now called shop.cash.Payment", "is now called shop.cash"),
    ("a namespace removed", lambda schema: schema.pop("namespace"), "is now called Payment", "is now called Payment"),
    (
        "a namespace written into the name",
        both(whole(name="shop.money.Payment"), lambda schema: schema.pop("namespace")),
        "",
        "",
    ),
    (
        "an enum renamed",
        both(kind(name="Sort"), field("counter_kind", type="Sort")),
        "is now called shop.money.Sort",
        "Sort",
    ),
    ("a reference by its full name", field("counter_kind", type="shop.money.Kind"), "", ""),
    ("fields in another order", swap(0, 2), "stand in another order", "stand in another order"),
    ("equal fields in another order", swap(8, 9), "stand in another order", "stand in another order"),
    ("a value that may now be null", field("currency", type=["string", "null"]), "", "can now be null"),
    (
        "a value that may no longer be null",
        field("note", type="string", default=""),
        "can no longer be null",
        "no longer be",
    ),
    (
        "null first to null last",
        field("note", type=["string", "null"], default=""),
        "its default from null",
        "from null",
    ),
    ("a branch more", field("note", type=["null", "string", "long"]), "", "can now be long"),
    ("a branch replaced", field("note", type=["null", "bytes"]), "can no longer be string", "can no longer be string"),
    (
        "an array's items",
        field("legs", type={"type": "array", "items": "string"}),
        "from record to string",
        "to string",
    ),
    ("a map's values", field("tags", type={"type": "map", "values": "long"}), "from string to long", "to long"),
    (
        "an array to a map",
        field("legs", type={"type": "map", "values": "string"}, default={}),
        "from array to map",
        "to map",
    ),
    ("an enum to a string", field("kind", type="string"), "from enum to string", "from enum to string"),
]


def test_the_table_has_fifty_changes_and_each_is_one() -> None:
    assert len(CHANGES) >= 50
    assert len({name for name, *_ in CHANGES}) == len(CHANGES)
    assert find_invalidity(json.dumps(OLD)) is None


@pytest.mark.parametrize(("name", "change", "backward", "full"), CHANGES, ids=[row[0] for row in CHANGES])
def test_a_change_gets_its_verdict(name: str, change: Callable[[Schema], None], backward: str, full: str) -> None:
    new = copy.deepcopy(OLD)
    change(new)
    assert (new != OLD) == (name != "nothing")
    for level, why in ((BACK, backward), (FULL, full)):
        found = list_losses(OLD, new, level)
        assert bool(found) == bool(why), (level, found)
        assert why in "; ".join(found), (level, found)


INVALID: Final = [
    ("", "it is no JSON"),
    ('{"type": "record",', "it is no JSON"),
    ('{"type": "record", "name": "A", "name": "B", "fields": []}', "the member 'name' stands twice"),
    ('{"type": "record", "name": "A"}', "it is no Avro schema"),
    ('{"type": "record", "name": "A", "fields": [{"name": "a", "type": "money"}]}', "it is no Avro schema"),
    ("[]garbage", "it is no JSON"),
    ('{"name": "A", "fields": []}', "it is no Avro schema"),
]
DEFAULTS: Final = [
    ("long", "0", 'the default "0" of the field a is no value of its type'),
    ("long", 1.5, "the default 1.5"),
    ("long", 2**63, "the default 9223372036854775808"),
    ("long", True, "the default true"),
    ("int", 2**31, "the default 2147483648"),
    ("string", None, "the default null"),
    (["null", "string"], "", 'the default ""'),
    ({"type": "array", "items": "string"}, {}, "the default {}"),
    ({"type": "enum", "name": "E", "symbols": ["x"]}, "y", 'the default "y"'),
    ({"type": "enum", "name": "E", "symbols": ["x"], "default": "y"}, "x", "the default 'y' of the enum a"),
    ({"type": "record", "name": "R", "fields": [{"name": "b", "type": "long"}]}, {}, "the default {}"),
]


@pytest.mark.parametrize(("text", "why"), INVALID)
def test_a_malformed_file_is_told_for_what_it_is(text: str, why: str) -> None:
    assert why in str(find_invalidity(text))


@pytest.mark.parametrize(("avro_type", "default", "why"), DEFAULTS)
def test_an_invalid_default_is_named(avro_type: Any, default: Any, why: str) -> None:
    schema = {"type": "record", "name": "A", "fields": [{"name": "a", "type": avro_type, "default": default}]}
    assert why in str(find_invalidity(json.dumps(schema)))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_projects_own_schemas_are_valid_and_follow_themselves(subject: str) -> None:
    text = read_schema_text(subject)
    assert find_invalidity(text) is None
    assert find_change_faults(json.loads(text), json.loads(text), SUBJECTS[subject][1]) == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_schema_is_in_the_list_of_published_ones(subject: str) -> None:
    found = compute_schema_fingerprint(read_schema_text(subject))
    assert is_published(read_schema_text(subject)), f'add "{found}" to PUBLISHED in producers/published_schemas.py'
