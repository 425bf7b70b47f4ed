"""What accountants read of one tenant: statements with a running balance, the trial balance.

All functions raise DatabaseError where Postgres is away.
"""

from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from db.queries import load
from db.reads import BalanceRow, Pool, fetch

_QUERIES: Final = load("reports")
TIME_MAX: Final = 2**63 - 1
ENTRIES_MAX: Final = 100_000
"""Of an account whose statement is asked for by value date, as all of them are put in order for it."""


class Place(NamedTuple):
    """A place in a statement: before this entry. A lane of -1 is before all entries of the time."""

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
    """Some lines, the latest first, and the account's debits less credits behind and before them."""

    lines: list[Line]
    closing_net_minor: int
    opening_net_minor: int


class StatementTooLong(Exception):
    """The account has more entries than are put in order by value date."""


class ClassTotal(NamedTuple):
    """The accounts of one class in one currency: turnover, and their balances by the side that they stand on."""

    currency: str
    account_class: str
    accounts: int
    debits_minor: int
    credits_minor: int
    debit_balances_minor: int
    credit_balances_minor: int


async def statement(
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
    """Up to `limit` lines by date of booking, before a place and not before `since`.

    `running_net`: the net at that place, as the page before it gave it; None has it looked up.
    """
    values = {"tenant": tenant, "address": address, "currency": currency, "since": since, "limit": limit}
    net = None if running_net is None else Decimal(running_net)
    return _statement(await fetch(pool, _QUERIES["statement"], values | before._asdict() | {"running_net": net}))


async def statement_by_value(
    pool: Pool, tenant: str, address: str, currency: str, before: Place, limit: int, *, since: int = 0
) -> Statement:
    """The same by value date (of booking, where an entry has none); StatementTooLong beyond ENTRIES_MAX entries."""
    values = {"tenant": tenant, "address": address, "currency": currency, "since": since, "limit": limit}
    rows = await fetch(pool, _QUERIES["statement_by_value"], values | before._asdict() | {"entries_max": ENTRIES_MAX})
    if rows[0]["entries"] > ENTRIES_MAX:
        raise StatementTooLong
    return _statement(rows)


def _statement(rows: list[dict[str, Any]]) -> Statement:
    closing = net = int(rows[0]["net_minor"])
    lines = []
    for row in rows:
        if row["lane"] is not None:
            fields = {name: row[name] for name in Line._fields}
            lines.append(Line(**fields | {"net_minor": net}))
            net -= row["direction"] * row["amount_minor"]
    return Statement(lines, closing, net)


async def trial_balance(pool: Pool, tenant: str) -> list[ClassTotal]:
    """Each class of accounts in each currency, in order of both."""
    rows = await fetch(pool, _QUERIES["trial_balance"], {"tenant": tenant})
    return [ClassTotal(**{name: _whole(value) for name, value in row.items()}) for row in rows]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


async def trial_balance_accounts(
    pool: Pool, tenant: str, account_class: str, currency: str, after: str, limit: int
) -> list[BalanceRow]:
    """Up to `limit` accounts of a class that hold a currency, in order of address."""
    values = {
        "tenant": tenant,
        "account_class": account_class,
        "currency": currency,
        "after": after,
        "limit": limit,
    }
    rows = await fetch(pool, _QUERIES["trial_balance_accounts"], values)
    return [BalanceRow(**{name: _whole(value) for name, value in row.items()}) for row in rows]
