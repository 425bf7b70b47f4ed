"""The queries of a comparison of two ledgers; each ledger is read with them."""

from typing import Any, Final

from psycopg import Connection
from psycopg.rows import dict_row

from db.queries import load

SQL: Final = load("comparison")
ROLE: Final = "ledgerline_operator"

Row = dict[str, Any]


def read_lanes(connection: Connection[Any]) -> dict[int, Row]:
    """Return every lane that has a row in the journal, by its number."""
    return {row["lane"]: row for row in _read_all(connection, "lanes", {})}


def read_rows(connection: Connection[Any], table: str, lane: int, first_seq: int, next_seq: int) -> list[Row]:
    """Return the rows of `journal`, `entry` (by address) or `quarantine` from first_seq to next_seq - 1, in order."""
    return _read_all(connection, table, {"lane": lane, "first_seq": first_seq, "next_seq": next_seq})


def read_balances(connection: Connection[Any], lane: int, next_seq: int | None = None) -> list[Row]:
    """Return a lane's shards by address. With `next_seq`, add up the entries before that row instead."""
    if next_seq is None:
        return _read_all(connection, "balances", {"lane": lane})
    return _read_all(connection, "balances_until", {"lane": lane, "next_seq": next_seq})


def _read_all(connection: Connection[Any], name: str, values: Row) -> list[Row]:
    return connection.cursor(row_factory=dict_row, binary=True).execute(SQL[name], values).fetchall()
