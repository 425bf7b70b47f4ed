"""The demo's queries of a ledger, and a change of a row that bypasses the ledger. Nothing else may use this module.

Every function takes the DSN of a superuser. Only the demo's embedded Postgres has such a DSN.
"""

from typing import Any, Final, NamedTuple

from db.connections import connect
from db.queries import load

SQL: Final = load("demo")
_OPERATOR: Final = "ledgerline_operator"
# No role: the connection acts as the login itself, which is the superuser of the embedded server.
_SUPERUSER: Final = "none"


class CurrencySums(NamedTuple):
    """Sums over all entries in one currency, in minor units."""

    currency: str
    debits_minor: int
    credits_minor: int
    entries: int


def count_outcomes(dsn: str) -> dict[tuple[str, str], int]:
    """Return (outcome, reason) -> number of journal rows, counted one by one."""
    return {(outcome, reason): counted for outcome, reason, counted in _read_rows(dsn, "outcomes", {})}


def read_balances(dsn: str, tenant: str) -> dict[tuple[str, str], int]:
    """Return (account, currency) -> debits less credits in minor units."""
    return {
        (address, currency): int(amount)
        for address, currency, amount in _read_rows(dsn, "balances", {"tenant": tenant})
    }


def sum_currencies(dsn: str) -> list[CurrencySums]:
    """Return the sums of debits and credits, the currency with the most entries first."""
    sums = [
        CurrencySums(currency, int(debits), int(credits), entries)
        for currency, debits, credits, entries in _read_rows(dsn, "sums", {})
    ]
    return sorted(sums, key=lambda found: (-found.entries, found.currency))


def choose_victim(dsn: str) -> tuple[int, int]:
    """Return the (lane, seq) of a posted row to alter; always the same for the same ledger."""
    lane, seq = _read_rows(dsn, "victim", {})[0]
    return int(lane), int(seq)


def alter_amounts(dsn: str, lane: int, seq: int, by_minor: int) -> int:
    """Raise all legs of one row by `by_minor`, bypassing every trigger and privilege; return the number of legs.

    A second call with the negative amount restores the legs.
    """
    with connect(dsn, _SUPERUSER) as connection, connection.transaction():
        connection.execute(SQL["without_triggers"])
        return connection.execute(SQL["alter"], {"lane": lane, "seq": seq, "by_minor": by_minor}).rowcount


def open_audit_breaks(dsn: str) -> list[tuple[int | None, int | None]]:
    """Return the (lane, seq) of each break that the running audit agent has found and not resolved."""
    return [(lane, seq) for lane, seq in _read_rows(dsn, "audit_breaks", {})]


def _read_rows(dsn: str, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connect(dsn, _OPERATOR, autocommit=True) as connection:
        return connection.execute(SQL[query], values).fetchall()
