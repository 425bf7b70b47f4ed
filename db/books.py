"""The books' frame: tenants, their charts of accounts and their units.

Workers and the API keep a `Books` in memory and load it again when its version has changed. Operators change the
frame through the functions below, on a connection of the role ledgerline_operator.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row, dict_row

from db.queries import load
from domain.chart import DEFAULT_CHART, AccountClass, Chart, ChartError, ChartPattern, check_pattern
from domain.errors import LedgerlineError
from domain.intents import CURRENCY_PATTERN, TENANT_CHARACTERS_MAX, TENANT_PATTERN
from domain.money import EXPONENT_MAX, find_minor_unit_fault, get_iso_exponent

_QUERIES: Final = load("books")


class BooksError(LedgerlineError):
    """The books' frame cannot be changed as asked."""


@dataclass(frozen=True)
class Books:
    """The frame of all tenants at one version. A tenant without lines or units has an empty chart or dict."""

    version: int
    charts: dict[str, Chart]
    units: dict[str, dict[str, int]]
    """Tenant -> code -> exponent, of registered units only; ISO 4217 codes need no registration."""
    closed_because: str | None = None
    """The reason that clients are told while the intake is closed; None while it is open."""
    lanes: int | None = None
    """The minimum number of lanes: a process that knows fewer looks again. None if no lanes were ever added."""


class Unit(NamedTuple):
    """A registered unit, such as shares or hours; `exponent` is its number of minor-unit digits."""

    code: str
    exponent: int
    name: str


def _make_books(row: Sequence[Any]) -> Books:
    version, tenants, lines, units, closed_because, lanes = row
    charts: dict[str, list[ChartPattern]] = {tenant: [] for tenant in tenants}
    exponents: dict[str, dict[str, int]] = {tenant: {} for tenant in tenants}
    for tenant, pattern, account_class, direction, floor, currencies in lines:
        charts[tenant].append(
            ChartPattern(
                pattern,
                AccountClass(account_class),
                direction,
                floor,
                None if currencies is None else frozenset(currencies),
            )
        )
    for tenant, code, exponent in units:
        exponents[tenant][code] = exponent
    found = {tenant: Chart(patterns) for tenant, patterns in charts.items()}
    return Books(version, found, exponents, closed_because, lanes)


def load_books(connection: Connection[Any]) -> Books:
    """Return the books' current frame, read in one statement."""
    row = connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_QUERIES["books"]).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return _make_books(row)


async def load_books_async(connection: AsyncConnection[Any]) -> Books:
    """Return the books' current frame, as `load_books` does, over an asynchronous connection."""
    cursor = await connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_QUERIES["books"])
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return _make_books(row)


def read_books_version(connection: Connection[Any]) -> int:
    """Return the current version of the books. A `Books` with another version is out of date."""
    row = connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_QUERIES["version"]).fetchone()
    if row is None:
        raise BooksError("The table ledger.books_version is empty: run `ledgerline prepare` on this database.")
    return int(row[0])


@contextmanager
def _explain_refusals(tenant: str) -> Iterator[None]:
    """Turn those of Postgres' refusals that an operator can cause into a BooksError that says what to do."""
    try:
        yield
    except psycopg.errors.ForeignKeyViolation as error:
        raise BooksError(f"There is no tenant {tenant!r}: add it with `ledgerline tenants add {tenant}`.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise BooksError("This login may not change the books: use a member of ledgerline_operator.") from error


def add_tenant(
    connection: Connection[Any],
    tenant: str,
    chart: Iterable[ChartPattern] = DEFAULT_CHART,
    *,
    done_by: str | None = None,
) -> bool:
    """Add a tenant with its chart, in one transaction; return False and change nothing if the tenant exists.

    Here and below, the database records each change as a fact and an operation of `done_by`, or of the login if that
    is None.
    """
    if len(tenant) > TENANT_CHARACTERS_MAX or not TENANT_PATTERN.fullmatch(tenant):
        raise BooksError(
            f"{tenant!r} cannot name a tenant: use at most {TENANT_CHARACTERS_MAX} lower-case letters, digits, - and _."
        )
    with _explain_refusals(tenant), connection.transaction():
        connection.execute(_QUERIES["author"], {"done_by": done_by})
        if connection.execute(_QUERIES["add_tenant"], {"tenant": tenant}).fetchone() is None:
            return False
        for line in chart:
            set_chart_pattern(connection, tenant, line, done_by=done_by)
    return True


def list_tenants(connection: Connection[Any]) -> list[dict[str, Any]]:
    """Return all tenants: tenant, created_time, and the counts chart_lines, units, accounts."""
    return connection.cursor(row_factory=dict_row).execute(_QUERIES["tenants"]).fetchall()


def set_chart_pattern(
    connection: Connection[Any], tenant: str, line: ChartPattern, *, done_by: str | None = None
) -> None:
    """Add or replace one line of a tenant's chart. Accounts that are open already do not change."""
    try:
        check_pattern(line)
    except ChartError as error:
        raise BooksError(f"{error}.") from error
    for currency in line.currencies or ():
        if not CURRENCY_PATTERN.fullmatch(currency):
            raise BooksError(f"{currency!r} is no currency code: use capitals and digits, such as EUR or MILES.")
    with _explain_refusals(tenant), connection.transaction():
        connection.execute(_QUERIES["author"], {"done_by": done_by})
        connection.execute(
            _QUERIES["set_chart_line"],
            {
                "tenant": tenant,
                "pattern": line.pattern,
                "account_class": line.account_class.value,
                "normal_direction": line.normal_direction,
                "floor_minor": line.floor_minor,
                "currencies": None if line.currencies is None else sorted(line.currencies),
            },
        )


def remove_chart_pattern(connection: Connection[Any], tenant: str, pattern: str, *, done_by: str | None = None) -> None:
    """Remove one line of a tenant's chart; raise BooksError if there is no such line."""
    with _explain_refusals(tenant), connection.transaction():
        connection.execute(_QUERIES["author"], {"done_by": done_by})
        removed = connection.execute(_QUERIES["remove_chart_line"], {"tenant": tenant, "pattern": pattern}).fetchone()
    if removed is None:
        raise BooksError(f"The chart of {tenant!r} has no line {pattern!r}: see `ledgerline chart list`.")


def list_chart(connection: Connection[Any], tenant: str) -> list[ChartPattern]:
    """Return a tenant's chart in order of pattern; empty if the tenant is unknown."""
    rows = connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_QUERIES["chart_lines"], {"tenant": tenant})
    return [
        ChartPattern(pattern, AccountClass(kind), direction, floor, None if held is None else frozenset(held))
        for pattern, kind, direction, floor, held in rows
    ]


def add_unit(
    connection: Connection[Any], tenant: str, code: str, exponent: int, name: str = "", *, done_by: str | None = None
) -> bool:
    """Register a unit; return False if it is registered already with this exponent.

    Raise BooksError for an ISO 4217 code, and for another exponent than the registered one: posted amounts count minor
    units, so a unit's exponent never changes.
    """
    if not CURRENCY_PATTERN.fullmatch(code):
        raise BooksError(f"{code!r} is no unit code: use capitals, digits, ., _ and -, at most 24, such as MILES.")
    if get_iso_exponent(code) is not None:
        raise BooksError(f"{code} is an ISO 4217 currency and needs no registration.")
    fault = find_minor_unit_fault(code)
    if fault is not None:
        raise BooksError(f"{code} {fault}")
    if not 0 <= exponent <= EXPONENT_MAX:
        raise BooksError(f"An exponent is a number of decimal places from 0 to {EXPONENT_MAX}, not {exponent}.")
    values = {"tenant": tenant, "code": code, "exponent": exponent, "name": name}
    with _explain_refusals(tenant), connection.transaction():
        connection.execute(_QUERIES["author"], {"done_by": done_by})
        row = connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_QUERIES["add_unit"], values).fetchone()
    if row is None:  # another transaction added the unit while the statement ran
        raise BooksError(f"The unit {code} is being registered by someone else: try again.")
    standing, is_new = row
    if standing != exponent:
        raise BooksError(f"The unit {code} is registered with exponent {standing}, for good: choose another code.")
    return bool(is_new)


def list_units(connection: Connection[Any], tenant: str) -> list[Unit]:
    """Return a tenant's registered units in order of code."""
    return connection.cursor(row_factory=class_row(Unit)).execute(_QUERIES["units"], {"tenant": tenant}).fetchall()
