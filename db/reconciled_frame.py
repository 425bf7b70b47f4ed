"""Reconciliation's own copy of the books' frame, built from the topic ledger.frame, and the ledger's tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.queries import load
from db.relay import read_facts
from domain.facts import Change, FrameKey, FrameValues, get_fact_key, get_normal_direction
from domain.intents import DIRECTION_NAMES

SQL: Final = load("reconciled_frame")


class ChainPair(NamedTuple):
    """A chain of facts as the topic brought it (`own`) and as the ledger has it (`held`); hashes have 32 bytes."""

    chain: int
    own_next_seq: int
    own_head: bytes | None
    held_next_seq: int
    held_head: bytes | None
    """The hash of the ledger's fact own_next_seq - 1; None if there is none."""


class RowPair(NamedTuple):
    """A row of the frame by the facts (`told`) and in the ledger's table (`held`); None on a side that lacks it."""

    key: FrameKey
    told: FrameValues | None
    held: FrameValues | None


def _make_values(columns: Sequence[Any]) -> FrameValues:
    account_class, direction, floor_minor, currencies, exponent, title, made_time = columns
    return FrameValues(
        account_class,
        None if direction is None else DIRECTION_NAMES[direction],
        floor_minor,
        currencies,
        exponent,
        title,
        made_time,
    )


def read_next_offset(connection: Connection[Any], *, lock: bool = False) -> int:
    """Return the next offset of ledger.frame to read; with `lock`, no one else moves it until the transaction ends."""
    return int(connection.execute(SQL["lock_reader" if lock else "reader"]).fetchall()[0][0])


def move_reader(connection: Connection[Any], offset: int) -> None:
    """Store the next offset of ledger.frame to read."""
    connection.execute(SQL["move_reader"], {"next_offset": offset})


def read_own_chains(connection: Connection[Any]) -> dict[int, tuple[int, bytes]]:
    """Return chain -> next seq and head, as the topic has brought them."""
    return {row[0]: (row[1], bytes(row[2])) for row in connection.execute(SQL["own_chains"])}


def move_chains(connection: Connection[Any], chains: Mapping[int, tuple[int, bytes]]) -> None:
    """Store the chains' positions."""
    for chain, (next_seq, head) in sorted(chains.items()):
        connection.execute(SQL["move_chain"], {"chain": chain, "next_seq": next_seq, "head": head})


def apply_facts(connection: Connection[Any], facts: Iterable[Mapping[str, Any]]) -> None:
    """Update reconciliation's own rows to these facts; if several facts are about one row, the last one counts."""
    last = {get_fact_key(fact): fact for fact in facts}
    put = []
    for key, fact in last.items():
        if fact["change"] == Change.REMOVED:
            connection.execute(SQL["remove_row"], key._asdict())
        else:
            put.append({**fact, "normal_direction": get_normal_direction(fact)})
    if put:
        connection.cursor().executemany(SQL["put_row"], put)


def read_chain_pairs(connection: Connection[Any]) -> list[ChainPair]:
    """Return every chain that the topic or the ledger has."""
    return [
        ChainPair(row[0], row[1], row[2] and bytes(row[2]), row[3], row[4] and bytes(row[4]))
        for row in connection.execute(SQL["chains"])
    ]


def find_unequal_rows(
    connection: Connection[Any], query: str, part: str, after: tuple[str, str], limit: int
) -> tuple[list[RowPair], tuple[str, str] | None]:
    """Return the unequal rows of a page of one part past `after` (tenant, name), and the last key of the page.

    The key is None after the last page. `query`: unequal_held for a page of the ledger's rows, untold_own for a page
    of reconciliation's own rows.
    """
    asked = {"part": part, "tenant": after[0], "name": after[1], "limit": limit}
    # Not prepared: a generic plan, for any part, must read the tables of all parts.
    pairs, end = [], None
    for row in connection.execute(SQL[query], asked, prepare=False):
        pair = _make_pair(part, row)
        if pair.told != pair.held:
            pairs.append(pair)
        if row[2]:
            end = (row[0], row[1])
    return pairs, end


def _make_pair(part: str, row: Sequence[Any]) -> RowPair:
    told, held = _make_values(row[4:11]) if row[3] else None, _make_values(row[12:19]) if row[11] else None
    return RowPair(FrameKey(part, row[0], row[1]), told, held)


def read_row_pair(connection: Connection[Any], key: FrameKey) -> RowPair:
    """Return both sides of one row."""
    row = connection.execute(SQL["one_row"], key._asdict(), prepare=False).fetchall()[0]
    return _make_pair(key.part, row)


def find_awaited(connection: Connection[Any], keys: Sequence[FrameKey]) -> set[FrameKey]:
    """Return those rows about which the ledger has a fact that the topic has not brought yet."""
    asked = {
        "parts": [key.part for key in keys],
        "tenants": [key.tenant for key in keys],
        "names": [key.name for key in keys],
    }
    return set(connection.cursor(row_factory=class_row(FrameKey)).execute(SQL["awaited"], asked, prepare=False))


def read_all_held(connection: Connection[Any]) -> Iterator[tuple[FrameKey, FrameValues]]:
    """Yield every row of the ledger's frame."""
    with connection.cursor(name="all_held") as cursor:
        cursor.itersize = 5000
        for row in cursor.execute(SQL["all_held"]):
            yield FrameKey(*row[:3]), _make_values(row[3:])


def read_held_facts(connection: Connection[Any], chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
    """Return the ledger's facts of a chain, in order, in the form of the topic's facts."""
    return read_facts(connection, chain, first_seq, facts_max)
