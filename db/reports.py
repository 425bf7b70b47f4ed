"""The accountants' queries, each of one tenant: statements with a running balance, and the trial balance.

All functions raise DatabaseError if Postgres is unreachable.
"""

from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from db.fetch import Pool, fetch
from db.queries import load
from db.reads import BalanceRow

_QUERIES: Final = load("reports")
TIME_MAX: Final = 2**63 - 1
ENTRIES_MAX: Final = 100_000
"""The most entries that an account may have for a statement by value date, because all of them are sorted."""


class Place(NamedTuple):
    """A place in a statement, directly before this entry. With lane -1 it is before all entries of that time."""

    time: int
    lane: int
    seq: int
    leg: int


STATEMENT_END: Final = Place(TIME_MAX, -1, -1, -1)


class Line(NamedTuple):
    """One entry of a statement. Times are microseconds since 1970 UTC."""

    lane: int
    seq: int
    leg: int
    direction: int
    amount_minor: int
    intent_id: UUID
    type: str
    reference: str | None
    value_time: int | None
    booked_time: int
    net_minor: int
    """Debits less credits of the account, this entry included."""


class Statement(NamedTuple):
    """Lines of a statement, the latest first, and the account's debits less credits after and before them."""

    lines: list[Line]
    closing_net_minor: int
    opening_net_minor: int


class StatementTooLong(Exception):
    """The account has more than ENTRIES_MAX entries, which is too many to sort by value date."""


class ClassTotal(NamedTuple):
    """The accounts of one class in one currency: turnover, and the sums of their debit and of their credit balances."""

    currency: str
    account_class: str
    accounts: int
    debits_minor: int
    credits_minor: int
    debit_balances_minor: int
    credit_balances_minor: int


async def read_statement(
    pool: Pool,
    tenant: str,
    address: str,
    currency: str,
    before: Place,
    limit: int,
    *,
    since: int = 0,
    running_net: int | None = None,
) -> Statement:
    """Return up to `limit` lines by booking time, before a place and not earlier than `since`.

    `running_net`: the net at that place, from the previous page; if it is None, the query computes it.
    """
    values = {"tenant": tenant, "address": address, "currency": currency, "since": since, "limit": limit}
    net = None if running_net is None else Decimal(running_net)
    return _make_statement(await fetch(pool, _QUERIES["statement"], values | before._asdict() | {"running_net": net}))


async def read_statement_by_value(
    pool: Pool, tenant: str, address: str, currency: str, before: Place, limit: int, *, since: int = 0
) -> Statement:
    """Return a statement by value time, or by booking time for an entry without one.

    Raise StatementTooLong if the account has more than ENTRIES_MAX entries.
    """
    values = {"tenant": tenant, "address": address, "currency": currency, "since": since, "limit": limit}
    rows = await fetch(pool, _QUERIES["statement_by_value"], values | before._asdict() | {"entries_max": ENTRIES_MAX})
    if rows[0]["entries"] > ENTRIES_MAX:
        raise StatementTooLong
    return _make_statement(rows)


def _make_statement(rows: list[dict[str, Any]]) -> Statement:
    closing = net = int(rows[0]["net_minor"])
    lines = []
    for row in rows:
        if row["lane"] is not None:
            fields = {name: row[name] for name in Line._fields}
            lines.append(Line(**fields | {"net_minor": net}))
            net -= row["direction"] * row["amount_minor"]
    return Statement(lines, closing, net)


async def read_trial_balance(pool: Pool, tenant: str) -> list[ClassTotal]:
    """Return the totals of each class of accounts in each currency, in order of currency and class."""
    rows = await fetch(pool, _QUERIES["trial_balance"], {"tenant": tenant})
    return [ClassTotal(**{name: _make_whole(value) for name, value in row.items()}) for row in rows]


def _make_whole(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


async def read_trial_balance_accounts(
    pool: Pool, tenant: str, account_class: str, currency: str, after: str, limit: int
) -> list[BalanceRow]:
    """Return up to `limit` accounts of a class that hold a currency, in order of address, after `after`."""
    values = {
        "tenant": tenant,
        "account_class": account_class,
        "currency": currency,
        "after": after,
        "limit": limit,
    }
    rows = await fetch(pool, _QUERIES["trial_balance_accounts"], values)
    return [BalanceRow(**{name: _make_whole(value) for name, value in row.items()}) for row in rows]
