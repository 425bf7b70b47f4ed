"""What a comparison of two ledgers reads of each."""

from typing import Any, Final

from psycopg import Connection
from psycopg.rows import dict_row

from db.queries import load

SQL: Final = load("comparison")
ROLE: Final = "ledgerline_operator"

Row = dict[str, Any]


def lanes(connection: Connection[Any]) -> dict[int, Row]:
    """Every lane that has a row in the journal, by number."""
    return {row["lane"]: row for row in _all(connection, "lanes", {})}


def rows(connection: Connection[Any], table: str, lane: int, first_seq: int, next_seq: int) -> list[Row]:
    """Rows of `journal`, `entry` (by address) or `quarantine`, of seq first_seq to next_seq - 1, in order."""
    return _all(connection, table, {"lane": lane, "first_seq": first_seq, "next_seq": next_seq})


def balances(connection: Connection[Any], lane: int, next_seq: int | None = None) -> list[Row]:
    """A lane's shards by address; with `next_seq` as they stood before that row, by the entries."""
    if next_seq is None:
        return _all(connection, "balances", {"lane": lane})
    return _all(connection, "balances_until", {"lane": lane, "next_seq": next_seq})


def _all(connection: Connection[Any], name: str, values: Row) -> list[Row]:
    return connection.cursor(row_factory=dict_row, binary=True).execute(SQL[name], values).fetchall()
