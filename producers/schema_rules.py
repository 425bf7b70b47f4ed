"""What a schema may not lose, though a registry would let it: here every field and enum has a default.

A default lets a reader do without a field or a symbol, so registries call its removal, and a rename, compatible at
every level. But what was written under the old name would silently read as the default: money as zero.
"""

from collections.abc import Iterator
from typing import Any


def losses(old: Any, new: Any) -> list[str]:
    """What of an Avro schema (as parsed JSON) the new one no longer has, each as a clause for people.

    Fields may go only by an alias, symbols not at all, and a field keeps its default.
    """
    return list(_losses(old, new, ""))


def _losses(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, list):
        for branch in old:
            same = next((other for other in _branches(new) if _kind(other) == _kind(branch)), None)
            if same is not None:  # a branch that went is a change of type, which the registry refuses
                yield from _losses(branch, same, path)
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    kind = old.get("type")
    if kind == "record":
        yield from _lost_fields(old, new, path)
    elif kind == "enum":
        gone = [symbol for symbol in old["symbols"] if symbol not in new.get("symbols", ())]
        yield from (f"the symbol {symbol} of {path or old['name']} was removed or renamed" for symbol in gone)
    elif kind in ("array", "map"):
        member = "items" if kind == "array" else "values"
        yield from _losses(old[member], new.get(member), path)


def _lost_fields(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
    by_name = {name: field for field in new.get("fields", ()) for name in (field["name"], *field.get("aliases", ()))}
    for field in old["fields"]:
        where = f"{path}.{field['name']}" if path else field["name"]
        kept = by_name.get(field["name"])
        if kept is None:
            yield f"the field {where} was removed, or renamed without an alias"
            continue
        if "default" in field and "default" not in kept:
            yield f"the field {where} lost its default"
        yield from _losses(field["type"], kept["type"], where)


def _branches(schema: Any) -> list[Any]:
    return schema if isinstance(schema, list) else [schema]


def _kind(schema: Any) -> Any:
    return (schema.get("type"), schema.get("name")) if isinstance(schema, dict) else schema
