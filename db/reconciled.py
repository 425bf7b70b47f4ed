"""What reconciliation has found, read from its own store by whoever asks it from outside.

Functions take a connection of the role ledgerline_operator, as db.operations.glance gives.
"""

from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.queries import load

SQL: Final = load("reconciled")


class ReconciledLane(NamedTuple):
    """How far reconciliation has followed a lane of ledger.journal, and the fates that it has counted there."""

    lane: int
    next_offset: int
    """Of ledger.journal: what lies before it was checked, up to `next_seq`."""
    next_seq: int
    posted: int
    duplicate: int
    idempotency_conflict: int
    rejected: int
    quarantined: int


class ReconciledSum(NamedTuple):
    """What reconciliation has added up for one account and currency, over all lanes."""

    address: str
    currency: str
    debits_minor: int
    credits_minor: int


def reconciled_lanes(connection: Connection[Any]) -> dict[int, ReconciledLane]:
    """Every lane that reconciliation has met."""
    rows = connection.cursor(row_factory=class_row(ReconciledLane)).execute(SQL["lanes"]).fetchall()
    return {row.lane: row for row in rows}


def reconciled_sums(connection: Connection[Any], tenant: str, prefix: str) -> list[ReconciledSum]:
    """The sums of the accounts below `prefix`, such as `users:42:`."""
    rows = connection.execute(SQL["sums"], {"tenant": tenant, "prefix": prefix})
    return [ReconciledSum(address, currency, int(debits), int(credits)) for address, currency, debits, credits in rows]
