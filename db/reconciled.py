"""Queries of reconciliation's results, from its own tables, for readers outside of reconciliation.

Functions take a connection of the role ledgerline_operator, such as `db.operations.open_glance` opens.
"""

from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.queries import load

SQL: Final = load("reconciled")


class ReconciledLane(NamedTuple):
    """Reconciliation's position in a lane of ledger.journal, and its counts by outcome."""

    lane: int
    next_offset: int
    """The next offset of ledger.journal to read. Records before it are checked; they go up to `next_seq`."""
    next_seq: int
    posted: int
    duplicate: int
    idempotency_conflict: int
    rejected: int
    quarantined: int


class ReconciledSum(NamedTuple):
    """Reconciliation's own sums of one account and currency, over all lanes."""

    address: str
    currency: str
    debits_minor: int
    credits_minor: int


def read_reconciled_lanes(connection: Connection[Any]) -> dict[int, ReconciledLane]:
    """Return every lane that reconciliation has read from, by its number."""
    rows = connection.cursor(row_factory=class_row(ReconciledLane)).execute(SQL["lanes"]).fetchall()
    return {row.lane: row for row in rows}


def read_reconciled_sums(connection: Connection[Any], tenant: str, prefix: str) -> list[ReconciledSum]:
    """Return the sums of the accounts that begin with `prefix`, such as `users:42:`."""
    rows = connection.execute(SQL["sums"], {"tenant": tenant, "prefix": prefix})
    return [ReconciledSum(address, currency, int(debits), int(credits)) for address, currency, debits, credits in rows]
