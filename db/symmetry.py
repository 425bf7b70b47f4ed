"""What moved on the accounts of symmetry rules, in reconciliation's own schema, and which of it has not come back.

An account is (tenant, address, currency), over all lanes. Each function works within the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection

from db.binary import Texts, make_numerics
from db.queries import load

SQL: Final = load("symmetry")
BEFORE_ALL: Final = ("", "", "")

AccountKey = tuple[str, str, str]
"""Tenant, address, currency."""


class Movement(NamedTuple):
    """What one record moved on one side of an account. `booked_time`: microseconds since 1970."""

    tenant: str
    address: str
    currency: str
    direction: int
    lane: int
    seq: int
    amount_minor: int
    booked_time: int


class Away(NamedTuple):
    """How far an account is from its wanted balance, and since when; None: no row says since when."""

    net_minor: int
    since_time: int | None


def _make_columns(accounts: Mapping[AccountKey, int]) -> dict[str, Any]:
    ordered = sorted(accounts)
    return {
        "tenants": Texts([account[0] for account in ordered]),
        "addresses": Texts([account[1] for account in ordered]),
        "currencies": Texts([account[2] for account in ordered]),
        "wanted_minor": make_numerics([accounts[account] for account in ordered]),
    }


def add_movements(connection: Connection[Any], movements: Sequence[Movement]) -> None:
    """Add what a batch moved. The caller has locked the lanes."""
    names = ("tenants", "addresses", "currencies", "directions", "lanes", "seqs", "amounts_minor", "booked_times")
    columns = zip(*movements, strict=True)
    connection.execute(SQL["add_movements"], dict(zip(names, map(list, columns), strict=True)))


def add_unknown(connection: Connection[Any], accounts: Mapping[AccountKey, int], now: int) -> None:
    """Add what these accounts are away by and no row explains, as away since `now`. `accounts`: wanted minor units."""
    connection.execute(SQL["add_unknown"], {**_make_columns(accounts), "now": now}, prepare=False)


def read_accounts(connection: Connection[Any], after: AccountKey, limit: int) -> list[AccountKey]:
    """Return a page of the accounts that have rows, past `after`."""
    values = {"tenant": after[0], "address": after[1], "currency": after[2], "limit": limit}
    return [(row[0], row[1], row[2]) for row in connection.execute(SQL["accounts"], values)]


def prune(
    connection: Connection[Any], accounts: Mapping[AccountKey, int], ruleless: Sequence[AccountKey], horizon: int
) -> None:
    """Delete the rows that have come back, and all rows of accounts without a rule; do nothing if another worker does.

    `horizon`: every record booked up to it has been read, in microseconds since 1970.
    """
    row = connection.execute(SQL["may_prune"]).fetchone()
    if row is None or not row[0]:
        return
    if accounts:
        values = {**_make_columns(accounts), "horizon": horizon}
        connection.execute(SQL["forget_matched"], values, prepare=False)
    if ruleless:
        columns = _make_columns(dict.fromkeys(ruleless, 0))
        del columns["wanted_minor"]
        connection.execute(SQL["forget_accounts"], columns, prepare=False)


def judge(connection: Connection[Any], accounts: Mapping[AccountKey, int]) -> dict[AccountKey, Away]:
    """Return the accounts that are away from their wanted minor units."""
    ordered = sorted(accounts)
    rows = connection.execute(SQL["judge"], _make_columns(accounts), prepare=False)
    return {ordered[row[0] - 1]: Away(int(row[1]), row[2]) for row in rows}
