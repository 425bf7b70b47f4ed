"""Accounts, balances and entries of the key's tenant."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.callers import AccountsReader
from api.lists import Cursor, Limit
from api.problems import Kind, Problem
from api.responses import json_response, problem_responses
from api.views import (
    AccountsPage,
    AccountView,
    BalancesPage,
    EntriesPage,
    account_view,
    balance_view,
    entry_view,
)
from db import reads
from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN

router = APIRouter(tags=["accounts"])

Prefix = Annotated[
    str,
    Query(
        max_length=ADDRESS_CHARACTERS_MAX,
        pattern=r"^[A-Za-z0-9_:-]*$",
        description="Only accounts whose address begins so.",
        examples=["users:42:"],
    ),
]
Address = Annotated[
    str, Path(description="Such as users:42:wallet.", json_schema_extra={"pattern": f"^{ADDRESS_PATTERN.pattern}$"})
]


def _not_open(address: str) -> Problem:
    return Problem(
        Kind.ACCOUNT_NOT_FOUND,
        "No account is open at this address; one opens with the first intent posted to it.",
        address=address[:ADDRESS_CHARACTERS_MAX],
    )


def _checked(address: str) -> str:
    if len(address) > ADDRESS_CHARACTERS_MAX or not ADDRESS_PATTERN.fullmatch(address):
        raise _not_open(address)
    return address


@router.get("/v1/accounts", response_model=AccountsPage, responses=problem_responses(Kind.INVALID_CURSOR))
async def list_accounts(
    reader: AccountsReader,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The open accounts, in order of address."""
    page = reader.page(("accounts", reader.tenant), "/v1/accounts", limit, cursor, prefix=prefix)
    (after,) = page.begin("")
    rows = await reader.read(lambda pool: reads.accounts_page(pool, reader.tenant, prefix, after, page.rows_max))
    return page.response(rows, account_view, lambda row: (row.address,))


@router.get("/v1/accounts/{address}", response_model=AccountView, responses=problem_responses(Kind.ACCOUNT_NOT_FOUND))
async def get_account(reader: AccountsReader, address: Address) -> Response:
    """One open account."""
    row = await reader.read(lambda pool: reads.account(pool, reader.tenant, _checked(address)))
    if row is None:
        raise _not_open(address)
    return json_response(account_view(row))


@router.get(
    "/v1/accounts/{address}/balances",
    response_model=BalancesPage,
    responses=problem_responses(Kind.ACCOUNT_NOT_FOUND),
)
async def get_account_balances(reader: AccountsReader, address: Address) -> Response:
    """One account's balance in each currency it holds; all on one page."""
    rows = await reader.read(lambda pool: reads.account_balances(pool, reader.tenant, _checked(address)))
    if rows is None:
        raise _not_open(address)
    units = reader.units
    return json_response({"items": [balance_view(row, units) for row in rows], "next": None})


@router.get("/v1/balances", response_model=BalancesPage, responses=problem_responses(Kind.INVALID_CURSOR))
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
        lambda pool: reads.balances_page(pool, reader.tenant, prefix, (address, currency), page.rows_max)
    )
    units = reader.units
    return page.response(rows, lambda row: balance_view(row, units), lambda row: (row.address, row.currency or ""))


@router.get(
    "/v1/accounts/{address}/entries",
    response_model=EntriesPage,
    responses=problem_responses(Kind.ACCOUNT_NOT_FOUND, Kind.INVALID_CURSOR),
)
async def list_entries(
    reader: AccountsReader,
    address: Address,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """What was posted to one account, in order of lane and sequence; within a lane that is the order of booking."""
    path = f"/v1/accounts/{_checked(address)}/entries"
    page = reader.page(("entries", reader.tenant, address), path, limit, cursor)
    lane, seq, leg = page.begin(-1, -1, -1)
    rows = await reader.read(
        lambda pool: reads.entries_page(pool, reader.tenant, address, (lane, seq, leg), page.rows_max)
    )
    if not rows and await reader.read(lambda pool: reads.account(pool, reader.tenant, address)) is None:
        raise _not_open(address)
    units = reader.units
    return page.response(rows, lambda row: entry_view(row, units), lambda row: (row.lane, row.seq, row.leg))
