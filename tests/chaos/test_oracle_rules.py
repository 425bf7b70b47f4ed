"""The oracle's own rules, without any server: its imports, its canonical JSON, and its order of lanes."""

import ast
import itertools
import sys
from typing import Final

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from runtime.settings import REPOSITORY_ROOT
from tools.chaos.oracle.balances import Change, _kindest
from tools.chaos.oracle.canonical import canonical_json

LIBRARIES: Final = {"confluent_kafka", "fastavro", "httpx", "psycopg"}
OWN: Final = "tools.chaos.oracle"

# Texts that Avro can hold: any code point except surrogates.
TEXTS: Final = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def test_it_imports_nothing_of_ours() -> None:
    """import-linter only forbids packages by name, and would not notice a package that is added later."""
    imported = set()
    for module in (REPOSITORY_ROOT / "tools/chaos/oracle").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module or "")
    others = {name for name in imported if not name.startswith(f"{OWN}.")}
    assert OWN not in others
    assert {name.split(".")[0] for name in others} - sys.stdlib_module_names == LIBRARIES


@given(
    st.dictionaries(TEXTS, TEXTS, max_size=5),
    st.one_of(st.none(), TEXTS, st.integers(-(2**53) + 1, 2**53 - 1)),
    st.lists(st.fixed_dictionaries({"account": TEXTS, "amount_minor": TEXTS}), max_size=3),
)
def test_its_canonical_json_is_that_of_the_package(
    metadata: dict[str, str], value: str | int | None, legs: list[dict[str, str]]
) -> None:
    members = {"metadata": metadata, "value_time": value, "legs": legs, "booked_time": 1_790_000_000_000_000}
    assert canonical_json(members, metadata) == rfc8785.dumps(members)


def test_a_time_beyond_2_to_the_53_beside_odd_keys_is_written_all_the_same() -> None:
    metadata = {"\ue000": "b", "\N{MONEY BAG}": "a"}
    written = canonical_json({"value_time": 2**62, "metadata": metadata}, metadata)
    assert written == f'{{"metadata":{{"\N{MONEY BAG}":"a","\ue000":"b"}},"value_time":{2**62}}}'.encode()


def broken(changes: list[Change], balance: int, floor: int) -> bool:
    for change in changes:
        balance += change.amount_minor
        if change.amount_minor < 0 and balance < floor:
            return True
    return False


@given(
    st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    st.integers(-4, 8),
    st.integers(-2, 4),
)
def test_the_order_of_lanes_breaks_a_floor_only_where_every_order_does(
    amounts: list[list[int]], start: int, floor: int
) -> None:
    lanes = [
        [Change(1, lane, seq, amount, max(-amount, 0)) for seq, amount in enumerate(part)]
        for lane, part in enumerate(amounts)
    ]
    # The balance before the lanes' changes, as a transaction of its own.
    before = Change(0, 0, 0, start, max(-start, 0))
    changes = [before, *itertools.chain(*lanes)]
    ordered = list(_kindest(changes, floor))
    assert sorted(ordered) == sorted(changes)
    assert ordered[0] == before
    every = [list(itertools.chain(*order)) for order in itertools.permutations(lanes)]
    assert broken(ordered[1:], start, floor) == all(broken(order, start, floor) for order in every)
