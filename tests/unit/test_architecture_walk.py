"""The walk of one intent in docs/ARCHITECTURE.md names functions that exist, are called, and come in order."""

import ast
import importlib
import re
from functools import cache
from itertools import groupby
from typing import Any, Final

import pytest

from runtime.settings import REPOSITORY_ROOT

PACKAGES: Final = ("api", "cli", "db", "domain", "producers", "runtime", "streams")
# A folder may import those of a lower rank; `make imports` holds the same order.
RANKS: Final = {"api": 5, "streams": 5, "producers": 4, "db": 3, "runtime": 2, "domain": 1}
STEPS_MAX: Final = 20

WALK: Final = (
    (REPOSITORY_ROOT / "docs" / "ARCHITECTURE.md")
    .read_text()
    .partition("## The walk of one intent\n")[2]
    .partition("\n## ")[0]
)
NAME: Final = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+):(\w+(?:\.\w+)?)`")


def read_processes() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each process of the walk with the modules and names of its steps, in order."""
    parts = re.split(r"^\*\*(.+)\*\*$", WALK, flags=re.MULTILINE)[1:]
    return [(name, NAME.findall(text)) for name, text in zip(parts[::2], parts[1::2], strict=True)]


STEPS: Final = [step for _, found in read_processes() for step in found]


@cache
def find_used_names() -> tuple[set[str], set[str]]:
    """Return the plain names that our code uses, with routes, and the attributes; imports do not count."""
    names: set[str] = set()
    attributes: set[str] = set()
    for top in PACKAGES:
        for path in (REPOSITORY_ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Name):
                    names.add(node.id)
                elif isinstance(node, ast.AsyncFunctionDef) and node.decorator_list:
                    names.add(node.name)  # a route: FastAPI calls it
                elif isinstance(node, ast.Attribute):
                    attributes.add(node.attr)
    return names, attributes


def test_the_walk_is_numbered_and_each_step_names_a_function() -> None:
    numbered = re.split(r"^(\d+)\. ", WALK, flags=re.MULTILINE)[1:]
    assert [int(number) for number in numbered[::2]] == list(range(1, len(numbered) // 2 + 1))
    assert len(numbered) // 2 <= STEPS_MAX
    assert [step for step in numbered[1::2] if not NAME.search(step)] == []


@pytest.mark.parametrize(("module", "name"), STEPS, ids=[f"{module}:{name}" for module, name in STEPS])
def test_a_step_is_there_and_is_called(module: str, name: str) -> None:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)
    names, attributes = find_used_names()
    owner, _, method = name.partition(".")
    is_used = method in attributes if method and method != "__call__" else owner in names | attributes
    assert is_used, f"nobody calls {name}"


def test_a_process_goes_down_the_layers_and_never_back() -> None:
    for process, steps in read_processes():
        rooms = [room for room, _ in groupby(module for module, _ in steps)]
        assert len(rooms) == len(set(rooms)), f"{process}: a module is met twice"
        first, *others = (room.partition(".")[0] for room in rooms)
        assert all(RANKS[top] < RANKS[first] for top in others if top != first), f"{process}: {first} may not call up"
    firsts = [steps[0][0] for _, steps in read_processes()]
    assert len(firsts) == len(set(firsts))
