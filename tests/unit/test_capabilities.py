"""The table of the capabilities: names are unique, events have schemas, and no capability imports another one."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import pytest

from domain.effects import make_own_key, split_own_key
from domain.events import FAMILIES, name_subject
from domain.topics import SUBJECTS
from runtime.settings import REPOSITORY_ROOT
from streams.capabilities import CAPABILITIES, Capability

LAYERS: Final = ("domain", "db", "streams", "api")
STEMS: Final = {item.name: item.name.removesuffix("s") for item in CAPABILITIES}
"""Modules of a capability begin with its name, in the plural or the singular: `webhooks`, `webhook_calls`."""


def list_repeated(names: Iterable[str]) -> list[str]:
    return [name for name, number in Counter(names).items() if number > 1]


def find_owner(module: str) -> str | None:
    """Return the capability of a module, such as db.webhooks_api; None if it belongs to none."""
    layer, _, rest = module.partition(".")
    first = rest.split(".")[0]
    if layer not in LAYERS:
        return None
    return next(
        (name for name, stem in STEMS.items() if first in (stem, name) or first.startswith((f"{stem}_", f"{name}_"))),
        None,
    )


def list_imports(text: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, also in functions: `from db import webhooks` is db.webhooks."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_modules() -> dict[str, str]:
    """Return the text of each module that belongs to a capability, by its dotted name."""
    found = {}
    for layer in LAYERS:
        for path in (REPOSITORY_ROOT / layer).rglob("*.py"):
            name = ".".join(path.relative_to(REPOSITORY_ROOT).with_suffix("").parts)
            if find_owner(name) is not None:
                found[name] = path.read_text()
    return found


def test_names_kinds_of_calls_and_dues_are_unique() -> None:
    assert list_repeated(item.name for item in CAPABILITIES) == []
    assert list_repeated(kind for item in CAPABILITIES for kind in item.calls) == []
    assert list_repeated(due.name for item in CAPABILITIES for due in item.due) == []


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda item: item.name)
def test_a_capability_can_do_something_and_its_name_fits_into_a_key(capability: Capability) -> None:
    assert capability.reactions or capability.outcome or capability.due or capability.calls
    assert split_own_key(make_own_key(capability.name, "1", "2")) == (capability.name, ("1", "2"))


def test_each_event_that_a_handler_answers_has_a_family_and_a_schema() -> None:
    answered = [event for item in CAPABILITIES for event in item.reactions]
    assert [family for family, _ in answered if family not in FAMILIES] == []
    assert [event for event in answered if name_subject(*event) not in SUBJECTS] == []


def test_each_family_has_a_schema_and_each_schema_of_an_event_a_family() -> None:
    """A family without a schema would have a topic for nothing; `transaction` waits for its capability."""
    of_events = {subject.partition(".events-")[0] for subject in SUBJECTS if ".events-" in subject}
    assert of_events - FAMILIES.keys() == set()
    assert FAMILIES.keys() - of_events == {"transaction"}


def test_no_capability_imports_another_one() -> None:
    """What a capability needs of another one it gets by an event, or by a port that `domain` names."""
    modules = list_modules()
    assert {find_owner(name) for name in modules} == STEMS.keys()
    crossing = [
        (name, imported)
        for name, text in modules.items()
        for imported in list_imports(text)
        if find_owner(imported) not in (None, find_owner(name))
    ]
    assert crossing == []


def test_the_rule_sees_an_import_of_another_capability() -> None:
    found = list(list_imports("def look():\n    from db import schedules\n    import domain.webhooks\n"))
    assert [find_owner(name) for name in found] == [None, "schedules", "webhooks"]
    assert find_owner("streams.webhook_calls") == "webhooks"
    assert find_owner("domain.schedules.states") == "schedules"
    assert find_owner("streams.clock") is None
