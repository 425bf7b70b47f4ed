"""`ledgerline accounts`, `balance`, `tenants`, `chart` and `units`: the frame of the books, and the money in them."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from cli.api_client import get_answer, list_items, open_api_client
from cli.arguments import check_address
from cli.context import find_running_ledger
from cli.output import Json, say, show_json, show_rows
from db import books
from db.connections import connect
from domain.chart import NORMAL_DIRECTIONS, AccountClass, ChartPattern
from domain.intents import DIRECTION_NAMES
from domain.money import compute_largest_amount, find_room_fault

accounts = typer.Typer(help="Open accounts.", no_args_is_help=True)
tenants = typer.Typer(help="Tenants: separate books in one ledger.", no_args_is_help=True)
chart = typer.Typer(
    help="The chart of accounts: which addresses may be opened, and with which class.", no_args_is_help=True
)
units = typer.Typer(help="Registered units beside the ISO 4217 currencies.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant whose books are shown or changed.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most rows.")]
Prefix = Annotated[str, typer.Argument(help="Show only addresses that begin with this text.")]


@contextmanager
def _open_operator() -> Iterator[Any]:
    with connect(find_running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        yield connection


def _say_done(sentence: str, value: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(value)
    else:
        say(sentence)


@accounts.command("list")
def list_accounts(prefix: Prefix = "", limit: Limit = 100, as_json: Json = False) -> None:
    """List the open accounts of the key's tenant."""
    with open_api_client() as client:
        rows = list_items(client, "/v1/accounts", {"prefix": prefix}, limit)
    show_rows("Accounts", rows, as_json=as_json)


@accounts.command("entries")
def list_entries(
    address: Annotated[str, typer.Argument(help="The account's address, such as users:42:wallet.")],
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List what was posted to one account."""
    check_address(address, "ADDRESS")
    with open_api_client() as client:
        rows = list_items(client, f"/v1/accounts/{address}/entries", {}, limit)
    columns = ("lane", "seq", "direction", "amount", "currency", "intent_id", "reference", "booked_time")
    show_rows(f"Entries of {address}", rows, as_json=as_json, columns=None if as_json else columns)


def balance(
    address: Annotated[str | None, typer.Argument(help="One account, such as users:42:wallet.")] = None,
    prefix: Annotated[str, typer.Option(help="Show all accounts whose address begins with this text.")] = "",
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Show the balances of one account, or of all accounts of the key's tenant below a prefix."""
    if address is not None:
        check_address(address, "ADDRESS")
    with open_api_client() as client:
        if address is None:
            rows = list_items(client, "/v1/balances", {"prefix": prefix}, limit)
        else:
            rows = get_answer(client.get(f"/v1/accounts/{address}/balances"))["items"]
    columns = ("address", "currency", "balance", "debits_minor", "credits_minor", "normal_direction")
    show_rows("Balances", rows, as_json=as_json, columns=None if as_json else columns)


@tenants.command("list")
def list_tenants(as_json: Json = False) -> None:
    """List all tenants."""
    with _open_operator() as connection:
        show_rows("Tenants", books.list_tenants(connection), as_json=as_json)


@tenants.command("add")
def add_tenant(tenant: Annotated[str, typer.Argument(help="The tenant's name.")], as_json: Json = False) -> None:
    """Add a tenant with the default chart; harmless if it exists."""
    with _open_operator() as connection:
        added = books.add_tenant(connection, tenant, done_by=getpass.getuser())
    sentence = f"Tenant {tenant} is added." if added else f"Tenant {tenant} exists already."
    _say_done(sentence, {"tenant": tenant, "added": added}, as_json=as_json)


@units.command("list")
def list_units(tenant: Tenant = "default", as_json: Json = False) -> None:
    """List a tenant's registered units."""
    with _open_operator() as connection:
        show_rows("Units", [unit._asdict() for unit in books.list_units(connection, tenant)], as_json=as_json)


@units.command("add")
def add_unit(
    code: Annotated[str, typer.Argument(help="The unit's code, such as MILES.")],
    exponent: Annotated[int, typer.Option(min=0, max=18, help="Number of decimal places; never changes.")] = 0,
    name: Annotated[str, typer.Option(help="A text for people.")] = "",
    largest: Annotated[
        str | None, typer.Option(help="Largest amount that one leg must be able to carry, such as 500000.")
    ] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Register a unit; harmless if it is registered with the same exponent."""
    fault = find_room_fault(code, exponent, None if largest is None else _compute_largest(largest))
    with _open_operator() as connection:
        if fault is not None and all(unit.code != code for unit in books.list_units(connection, tenant)):
            raise books.BooksError(fault)
        added = books.add_unit(connection, tenant, code, exponent, name, done_by=getpass.getuser())
    most = f"One leg carries at most {compute_largest_amount(exponent):f} of it."
    sentence = f"Unit {code} is registered. {most}" if added else f"Unit {code} is registered already. {most}"
    _say_done(sentence, {"tenant": tenant, "code": code, "exponent": exponent, "added": added}, as_json=as_json)


def _compute_largest(text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found <= 0:
        raise books.BooksError(f"{text!r} is no amount: write --largest as a positive number, such as 500000.")
    return found


def _make_line_view(line: ChartPattern) -> dict[str, Any]:
    return {
        "pattern": line.pattern,
        "account_class": line.account_class.value,
        "normal_direction": DIRECTION_NAMES[line.normal_direction],
        "floor_minor": line.floor_minor,
        "currencies": None if line.currencies is None else " ".join(sorted(line.currencies)),
    }


@chart.command("list")
def list_chart(tenant: Tenant = "default", as_json: Json = False) -> None:
    """List a tenant's chart. If several patterns match, the one with the longest literal beginning counts."""
    with _open_operator() as connection:
        rows = [_make_line_view(line) for line in books.list_chart(connection, tenant)]
    show_rows(f"Chart of {tenant}", rows, as_json=as_json)


@chart.command("set")
def set_line(
    pattern: Annotated[str, typer.Argument(help="Such as users:*:wallet; ** at the end stands for one or more parts.")],
    account_class: Annotated[AccountClass, typer.Argument(help="The class of these accounts.")],
    floor_minor: Annotated[
        int | None, typer.Option(help="Lowest balance on the normal side, in minor units; no floor if left out.")
    ] = None,
    currency: Annotated[
        list[str] | None, typer.Option(help="An allowed currency; repeat it for more. All are allowed if left out.")
    ] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Add a line to a tenant's chart, or replace the one with this pattern. Open accounts do not change."""
    currencies = frozenset(currency) if currency else None
    line = ChartPattern(pattern, account_class, NORMAL_DIRECTIONS[account_class], floor_minor, currencies)
    with _open_operator() as connection:
        books.set_chart_pattern(connection, tenant, line, done_by=getpass.getuser())
    _say_done(
        f"{pattern} stands in the chart of {tenant}.", {"tenant": tenant} | _make_line_view(line), as_json=as_json
    )


@chart.command("remove")
def remove_line(
    pattern: Annotated[str, typer.Argument(help="The pattern, as `list` shows it.")],
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Remove a line from a tenant's chart. Open accounts stay open."""
    with _open_operator() as connection:
        books.remove_chart_pattern(connection, tenant, pattern, done_by=getpass.getuser())
    sentence = f"{pattern} is removed from the chart of {tenant}."
    _say_done(sentence, {"tenant": tenant, "pattern": pattern, "removed": True}, as_json=as_json)
