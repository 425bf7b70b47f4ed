"""Rules for schema changes, stricter than a registry's; docs/decisions/0023-schema-rules.md has the reasons.

Every field and every enum here has a default, so a reader can do without any of them, and registries call almost every
change compatible. But a renamed amount would read as zero, and milliseconds would read as microseconds. These rules
compare meaning. Each fault is one clause for people.
"""

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

_PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_EXACT_PROMOTIONS: Final = frozenset({("int", "long")})
"""The only promotion of Avro that is allowed: it changes no value. A double, for example, cannot hold every long."""
_RANGES: Final = {"int": 2**31, "long": 2**63}


class Rule(StrEnum):
    """The rule that a change breaks."""

    NAME = "name"
    ORDER = "order"
    REMOVED = "removed"
    RENAMED = "renamed"
    REQUIRED = "required"
    DEFAULT = "default"
    SYMBOL = "symbol"
    TYPE = "type"
    UNIT = "unit"


MEANING: Final = frozenset({Rule.TYPE, Rule.UNIT})
"""The rules against changes that let a reader with the other schema read other values, or nothing at all."""


class Fault(NamedTuple):
    """One rule that a change breaks, and the clause that says where and why."""

    rule: Rule
    clause: str


def find_change_faults(old: Any, new: Any, level: str) -> list[Fault]:
    """Return the faults of a change from one schema to another (parsed JSON), at a registry's compatibility level.

    At FULL_TRANSITIVE, readers with the old schema also read data of the new one, so they must find every field with
    its name and type. At BACKWARD_TRANSITIVE, only the new schema reads data of the old one.
    """
    return list(_Comparison(old, new, both_ways=level.startswith("FULL")).faults(old, new, "", ("", "")))


def list_losses(old: Any, new: Any, level: str = "FULL_TRANSITIVE") -> list[str]:
    """Return only the clauses of `find_change_faults`."""
    return [fault.clause for fault in find_change_faults(old, new, level)]


def find_invalidity(text: str) -> str | None:
    """Return a clause that says why a text is no valid schema, or None if it is valid."""
    try:
        schema = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except ValueError as error:
        return f"it is no JSON ({error})"
    try:
        wrong = next(_find_invalid_defaults(schema, "", _collect_named_types(schema)), None)
        if wrong is None:
            fastavro.parse_schema(json.loads(text))
    except (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError, ValueError) as error:
        return f"it is no Avro schema ({type(error).__name__}: {error})"
    return wrong


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the member {twice!r} stands twice in one object")
    return dict(pairs)


def _find_invalid_defaults(schema: Any, path: str, names: Mapping[str, Any]) -> Iterator[str]:
    for branch in _list_branches(schema):
        if not isinstance(branch, dict):
            continue
        if branch.get("type") == "enum" and branch.get("default", branch["symbols"][0]) not in branch["symbols"]:
            yield f"the default {branch['default']!r} of the enum {path or branch['name']} is none of its symbols"
        for field in branch["fields"] if branch.get("type") == "record" else ():
            where = _make_path_below(path, field["name"])
            if "default" in field and not _is_valid_default(_list_branches(field["type"])[0], field["default"], names):
                yield f"the default {json.dumps(field['default'])} of the field {where} is no value of its type"
            yield from _find_invalid_defaults(field["type"], where, names)
        for member in ("items", "values", "type"):
            if isinstance(branch.get(member), (dict, list)):
                yield from _find_invalid_defaults(branch[member], path, names)


def _is_valid_default(schema: Any, value: Any, names: Mapping[str, Any]) -> bool:
    """Return whether a value, as parsed JSON, is a valid default for a schema."""
    schema = names.get(schema, schema) if isinstance(schema, str) else schema
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, (dict, list)):
        return _is_valid_default(_list_branches(kind)[0], value, names)
    if kind in _RANGES:
        return type(value) is int and -_RANGES[kind] <= value < _RANGES[kind]
    simple: dict[str, Any] = {
        "null": type(None), "boolean": bool, "string": str, "bytes": str, "fixed": str, "array": list, "map": dict,
    }  # fmt: skip
    if kind in simple:
        return isinstance(value, simple[kind])
    if kind in ("float", "double"):
        return type(value) in (int, float)
    if kind == "enum":
        return value in schema["symbols"]
    return isinstance(value, dict) and all(
        _is_valid_default(_list_branches(field["type"])[0], value[field["name"]], names)
        if field["name"] in value
        else "default" in field
        for field in schema.get("fields", ())
    )


class _Comparison:
    """Compares two schemas. References to named types are resolved."""

    def __init__(self, old: Any, new: Any, *, both_ways: bool) -> None:
        self._old_names, self._new_names = _collect_named_types(old), _collect_named_types(new)
        self._both_ways = both_ways
        self._compared: set[tuple[str, str]] = set()

    def faults(self, old: Any, new: Any, path: str, spaces: tuple[str, str]) -> Iterator[Fault]:
        """Yield the faults of the change from `old` to `new`. `spaces` are the namespaces around the two."""
        old, new = self._resolve(old, self._old_names, spaces[0]), self._resolve(new, self._new_names, spaces[1])
        if isinstance(old, list) or isinstance(new, list):
            yield from self._compare_unions(_list_branches(old), _list_branches(new), path, spaces)
            return
        old_kind, new_kind = _get_kind(old), _get_kind(new)
        if old_kind != new_kind and not ((old_kind, new_kind) in _EXACT_PROMOTIONS and not self._both_ways):
            yield Fault(Rule.TYPE, f"{_describe_named(path)} changed its type from {old_kind} to {new_kind}")
            return
        if _describe_unit(old) != _describe_unit(new):
            yield Fault(
                Rule.UNIT,
                f"{_describe_named(path)} changed its unit from {_describe_unit(old) or 'none'} to"
                f" {_describe_unit(new) or 'none'}",
            )
        if old_kind in ("record", "enum", "fixed"):
            yield from self._compare_named_types(old, new, old_kind, path, spaces)
        elif old_kind in ("array", "map"):
            member = "items" if old_kind == "array" else "values"
            yield from self.faults(old[member], new[member], path, spaces)

    def _resolve(self, schema: Any, names: Mapping[str, Any], space: str) -> Any:
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            return names.get(_get_full_name(schema, space), names.get(schema, schema))
        while isinstance(schema, dict) and isinstance(schema.get("type"), (dict, list)):
            schema = schema["type"]
        return schema

    def _compare_unions(self, old: list[Any], new: list[Any], path: str, spaces: tuple[str, str]) -> Iterator[Fault]:
        old = [self._resolve(branch, self._old_names, spaces[0]) for branch in old]
        new = [self._resolve(branch, self._new_names, spaces[1]) for branch in new]
        for branch in old:
            same = next(
                (
                    other
                    for other in new
                    if _get_kind(other) == _get_kind(branch) and _get_last(other) == _get_last(branch)
                ),
                None,
            )
            same = same or next((other for other in new if _get_kind(other) == _get_kind(branch)), None)
            if same is None:
                yield Fault(Rule.TYPE, f"{_describe_named(path)} can no longer be {_get_kind(branch)}")
            else:
                yield from self.faults(branch, same, path, spaces)
        if self._both_ways:
            kinds = {_get_kind(branch) for branch in old}
            for branch in new:
                if _get_kind(branch) not in kinds:
                    yield Fault(
                        Rule.TYPE,
                        f"{_describe_named(path)} can now be {_get_kind(branch)}, which readers of the old schema"
                        " cannot read",
                    )

    def _compare_named_types(
        self, old: Any, new: Any, kind: str, path: str, spaces: tuple[str, str]
    ) -> Iterator[Fault]:
        names = (
            _get_full_name(old["name"], old.get("namespace", spaces[0])),
            _get_full_name(new["name"], new.get("namespace", spaces[1])),
        )
        if names in self._compared:
            return
        self._compared.add(names)
        if names[0] != names[1]:
            yield Fault(Rule.NAME, f"the {kind} {names[0]} is now called {names[1]}, and readers go by the full name")
        inner = names[0].rpartition(".")[0], names[1].rpartition(".")[0]
        if kind == "record":
            yield from self._compare_records(old, new, path, inner)
        elif kind == "enum":
            yield from self._compare_enums(old, new, path or old["name"])
        elif old["size"] != new["size"]:
            yield Fault(
                Rule.TYPE, f"{_describe_named(path)} changed its size from {old['size']} to {new['size']} bytes"
            )

    def _compare_enums(self, old: Any, new: Any, where: str) -> Iterator[Fault]:
        for symbol in old["symbols"]:
            if symbol not in new["symbols"]:
                yield Fault(Rule.SYMBOL, f"the symbol {symbol} of {where} was removed or renamed")
        if "default" in old and "default" not in new:
            yield Fault(Rule.DEFAULT, f"the enum {where} lost its default symbol, which stands for symbols to come")
        elif old.get("default") != new.get("default") and "default" in old:
            yield Fault(
                Rule.DEFAULT, f"the enum {where} changed its default symbol from {old['default']} to {new['default']}"
            )
        added = [symbol for symbol in new["symbols"] if symbol not in old["symbols"]]
        if added and "default" not in old:
            yield Fault(
                Rule.SYMBOL, f"the symbol {added[0]} was added to {where}, whose readers have no default for it"
            )

    def _compare_records(self, old: Any, new: Any, path: str, spaces: tuple[str, str]) -> Iterator[Fault]:
        plain = {field["name"]: field for field in new["fields"]}
        known = {alias: field for field in new["fields"] for alias in field.get("aliases", ())} | plain
        kept: list[str] = []
        for field in old["fields"]:
            where = _make_path_below(path, field["name"])
            successor = known.get(field["name"])
            if successor is None:
                yield Fault(Rule.REMOVED, f"the field {where} was removed, or renamed without an alias")
                continue
            kept.append(successor["name"])
            if successor["name"] != field["name"] and self._both_ways:
                yield Fault(
                    Rule.RENAMED,
                    f"the field {where} was renamed to {successor['name']}, and readers of the old schema know no"
                    " alias: they would read its default",
                )
            yield from _find_default_faults(field, successor, where)
            yield from self.faults(field["type"], successor["type"], where, spaces)
        if [field["name"] for field in new["fields"] if field["name"] in kept] != kept:
            yield Fault(
                Rule.ORDER,
                f"the fields of {path or new['name']} stand in another order, which some registries take for"
                " the same schema",
            )
        for field in new["fields"]:
            if field["name"] not in kept and "default" not in field:
                yield Fault(Rule.REQUIRED, f"the new field {_make_path_below(path, field['name'])} has no default")


def _find_default_faults(old: Any, new: Any, where: str) -> Iterator[Fault]:
    if "default" in old and "default" not in new:
        yield Fault(Rule.DEFAULT, f"the field {where} lost its default")
    elif "default" in old and json.dumps(old["default"]) != json.dumps(new["default"]):
        yield Fault(
            Rule.DEFAULT,
            f"the field {where} changed its default from {json.dumps(old['default'])} to {json.dumps(new['default'])}:"
            " what was written without it would read otherwise",
        )


def _collect_named_types(schema: Any, space: str = "") -> dict[str, Any]:
    """Return every named type in a schema, by its full name and by its short name."""
    found: dict[str, Any] = {}
    for branch in _list_branches(schema):
        if not isinstance(branch, dict):
            continue
        inner = space
        if branch.get("type") in ("record", "enum", "fixed"):
            name = _get_full_name(branch["name"], branch.get("namespace", space))
            inner = name.rpartition(".")[0]
            found |= {name: branch, name.rpartition(".")[2]: branch}
        for field in branch.get("fields", ()):
            found |= _collect_named_types(field["type"], inner)
        for member in ("items", "values", "type"):
            if isinstance(branch.get(member), (dict, list)):
                found |= _collect_named_types(branch[member], inner)
    return found


def _get_full_name(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _list_branches(schema: Any) -> list[Any]:
    return schema if isinstance(schema, list) else [schema]


def _get_kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _get_last(schema: Any) -> str:
    return str(schema.get("name", "")) if isinstance(schema, dict) else ""


def _describe_unit(schema: Any) -> str:
    """Return the logical type and its parameters, such as timestamp-micros or decimal(18, 2); else an empty text."""
    if not isinstance(schema, dict) or "logicalType" not in schema:
        return ""
    if schema["logicalType"] == "decimal":
        return f"decimal({schema.get('precision')}, {schema.get('scale', 0)})"
    return str(schema["logicalType"])


def _make_path_below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _describe_named(path: str) -> str:
    return f"the field {path}" if path else "the schema"
