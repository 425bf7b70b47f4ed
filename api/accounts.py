"""Accounts, balances and entries of the key's tenant."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from api.callers import AccountsReader
from api.lists import Cursor, Limit, NextLink
from api.parameters import Address, check_address, make_not_open_problem
from api.problems import Kind
from api.responses import make_json_response, make_problem_responses
from api.times import to_optional_rfc3339, to_utc_text
from api.views import AccountClass, Side, Units, format_decimal, make_amounts
from db import reads
from db.reads import AccountRow, BalanceRow, EntryRow
from domain.intents import ADDRESS_CHARACTERS_MAX, DIRECTION_NAMES

router = APIRouter(tags=["accounts"])

Prefix = Annotated[
    str,
    Query(
        max_length=ADDRESS_CHARACTERS_MAX,
        pattern=r"^[A-Za-z0-9_:-]*$",
        description="Only accounts whose address begins with this text.",
        examples=["users:42:"],
    ),
]


class AccountView(BaseModel):
    """An open account."""

    address: str
    account_class: AccountClass
    normal_direction: Side
    floor_minor: int | None = Field(None, description="Lowest balance, in minor units of each currency; null: none.")
    opened_time: str


class BalanceView(BaseModel):
    """Sums over all lanes. `balance` is debits less credits, or the reverse, by the account's normal side."""

    address: str
    account_class: AccountClass
    normal_direction: Side
    currency: str
    debits_minor: int = Field(description="May need more than 64 bits.")
    credits_minor: int = Field(description="May need more than 64 bits.")
    balance_minor: int
    debits: str | None = Field(None, description="debits_minor as text, with the currency's decimals.")
    credits: str | None = Field(None, description="credits_minor as text, with the currency's decimals.")
    balance: str | None = Field(None, description="balance_minor as text, with the currency's decimals.")


class EntryView(BaseModel):
    """One leg of one account, with the journal row it belongs to."""

    lane: int
    seq: int
    leg: int
    direction: Side
    amount_minor: int
    amount: str | None = None
    currency: str
    intent_id: str
    type: str
    reference: str | None = None
    value_time: str | None = None
    booked_time: str


class AccountsPage(BaseModel):
    """Accounts in order of address."""

    items: list[AccountView]
    next: NextLink


class BalancesPage(BaseModel):
    """Balances in order of address and currency."""

    items: list[BalanceView]
    next: NextLink


class EntriesPage(BaseModel):
    """Entries in order of (lane, seq, leg)."""

    items: list[EntryView]
    next: NextLink


def _make_account_view(row: AccountRow) -> dict[str, Any]:
    return {
        "address": row.address,
        "account_class": row.account_class,
        "normal_direction": DIRECTION_NAMES[row.normal_direction],
        "floor_minor": row.floor_minor,
        "opened_time": to_utc_text(row.opened_time),
    }


def _make_balance_view(row: BalanceRow, units: Units) -> dict[str, Any]:
    currency = row.currency or ""
    return {
        "address": row.address,
        "account_class": row.account_class,
        "normal_direction": DIRECTION_NAMES[row.normal_direction],
        "currency": currency,
        **make_amounts(currency, units, debits=row.debits_minor, credits=row.credits_minor, balance=row.balance_minor),
    }


def _make_entry_view(row: EntryRow, units: Units) -> dict[str, Any]:
    return row._asdict() | {
        "intent_id": str(row.intent_id),
        "direction": DIRECTION_NAMES[row.direction],
        "amount": format_decimal(row.amount_minor, row.currency, units),
        "value_time": to_optional_rfc3339(row.value_time),
        "booked_time": to_optional_rfc3339(row.booked_time),
    }


@router.get("/v1/accounts", response_model=AccountsPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_accounts(
    reader: AccountsReader,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The open accounts, in order of address."""
    page = reader.page(("accounts", reader.tenant), "/v1/accounts", limit, cursor, prefix=prefix)
    (after,) = page.begin("")
    rows = await reader.read(lambda pool: reads.list_accounts(pool, reader.tenant, prefix, after, page.rows_max))
    return page.make_response(rows, _make_account_view, lambda row: (row.address,))


@router.get(
    "/v1/accounts/{address}", response_model=AccountView, responses=make_problem_responses(Kind.ACCOUNT_NOT_FOUND)
)
async def get_account(reader: AccountsReader, address: Address) -> Response:
    """One open account."""
    row = await reader.read(lambda pool: reads.find_account(pool, reader.tenant, check_address(address)))
    if row is None:
        raise make_not_open_problem(address)
    return make_json_response(_make_account_view(row))


@router.get(
    "/v1/accounts/{address}/balances",
    response_model=BalancesPage,
    responses=make_problem_responses(Kind.ACCOUNT_NOT_FOUND),
)
async def get_account_balances(reader: AccountsReader, address: Address) -> Response:
    """One account's balance in each of its currencies, all on one page."""
    rows = await reader.read(lambda pool: reads.find_account_balances(pool, reader.tenant, check_address(address)))
    if rows is None:
        raise make_not_open_problem(address)
    units = reader.units
    return make_json_response({"items": [_make_balance_view(row, units) for row in rows], "next": None})


@router.get("/v1/balances", response_model=BalancesPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_balances(
    reader: AccountsReader,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The balances of many accounts, in order of address and currency."""
    page = reader.page(("balances", reader.tenant), "/v1/balances", limit, cursor, prefix=prefix)
    address, currency = page.begin("", "")
    rows = await reader.read(
        lambda pool: reads.list_balances(pool, reader.tenant, prefix, (address, currency), page.rows_max)
    )
    units = reader.units
    return page.make_response(
        rows, lambda row: _make_balance_view(row, units), lambda row: (row.address, row.currency or "")
    )


@router.get(
    "/v1/accounts/{address}/entries",
    response_model=EntriesPage,
    responses=make_problem_responses(Kind.ACCOUNT_NOT_FOUND, Kind.INVALID_CURSOR),
)
async def list_entries(
    reader: AccountsReader,
    address: Address,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The entries of one account in order of lane and sequence; within a lane that is the order of booking."""
    path = f"/v1/accounts/{check_address(address)}/entries"
    page = reader.page(("entries", reader.tenant, address), path, limit, cursor)
    lane, seq, leg = page.begin(-1, -1, -1)
    rows = await reader.read(
        lambda pool: reads.list_entries(pool, reader.tenant, address, (lane, seq, leg), page.rows_max)
    )
    if not rows and await reader.read(lambda pool: reads.find_account(pool, reader.tenant, address)) is None:
        raise make_not_open_problem(address)
    units = reader.units
    return page.make_response(rows, lambda row: _make_entry_view(row, units), lambda row: (row.lane, row.seq, row.leg))
