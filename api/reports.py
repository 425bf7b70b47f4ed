"""Reports for accountants: an account's statement with its running balance, and the trial balance."""

from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from api.callers import AccountsReader
from api.lists import Cursor, Limit, NextLink
from api.parameters import Address, Currency, Moment, check_address, make_not_open_problem, parse_period
from api.problems import Kind, Problem
from api.responses import make_json_response, make_problem_responses
from api.times import to_optional_rfc3339
from api.views import AccountClass, Side, Units, format_decimal, make_amounts
from db import reads, reports
from domain.intents import DIRECTION_NAMES
from domain.times import format_rfc3339

router = APIRouter(tags=["reports"])


class Dates(StrEnum):
    """Which date a statement goes by."""

    BOOKING = "booking"
    VALUE = "value"


By = Annotated[Dates, Query(description="Order by date of booking, or by value date if an entry has one.")]


class StatementLineView(BaseModel):
    """One entry, and the account's balance with it."""

    lane: int
    seq: int
    leg: int
    direction: Side
    amount_minor: int
    amount: str | None = None
    balance_minor: int = Field(description="Balance on the account's normal side, this entry included.")
    balance: str | None = None
    intent_id: str
    type: str
    reference: str | None = None
    value_time: str | None = None
    booked_time: str


class StatementView(BaseModel):
    """A page of a statement, the latest entry first. Balances are on the account's normal side."""

    address: str
    account_class: AccountClass
    normal_direction: Side
    currency: str
    by: Dates
    closing_balance_minor: int = Field(description="Balance after the page's first entry, which is the latest.")
    closing_balance: str | None = None
    opening_balance_minor: int = Field(description="Balance before the page's last entry, which is the earliest.")
    opening_balance: str | None = None
    items: list[StatementLineView]
    next: NextLink


class SidesView(BaseModel):
    """Turnover on both sides, and the accounts' balances added up by side."""

    debits_minor: int
    credits_minor: int
    debit_balances_minor: int
    credit_balances_minor: int
    debits: str | None = None
    credits: str | None = None
    debit_balances: str | None = None
    credit_balances: str | None = None


class ClassTotalView(SidesView):
    """The accounts of one class."""

    account_class: AccountClass
    accounts: int


class CurrencyTotalView(SidesView):
    """One currency: the sums of its classes. In sound books both sides are equal."""

    currency: str
    is_balanced: bool
    classes: list[ClassTotalView]


class TrialBalanceView(BaseModel):
    """All currencies, as of one moment."""

    items: list[CurrencyTotalView]


class TrialAccountView(SidesView):
    """One account of the trial balance."""

    address: str
    account_class: AccountClass
    currency: str


class TrialAccountsPage(BaseModel):
    """Accounts in order of address."""

    items: list[TrialAccountView]
    next: NextLink


@router.get(
    "/v1/accounts/{address}/statement",
    response_model=StatementView,
    responses=make_problem_responses(Kind.ACCOUNT_NOT_FOUND, Kind.INVALID_CURSOR, Kind.STATEMENT_TOO_LONG),
)
async def get_statement(
    reader: AccountsReader,
    address: Address,
    currency: Currency,
    by: By = Dates.BOOKING,
    since: Moment = None,
    until: Moment = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """One account's entries in one currency from `since` to before `until`, the latest first, each with its balance.

    By date of booking a page costs the same however many entries the account has. By value date the API sorts all its
    entries, 100,000 at most.
    """
    begin, end = parse_period(since, until)
    account = await reader.read(lambda pool: reads.find_account(pool, reader.tenant, check_address(address)))
    if account is None:
        raise make_not_open_problem(address)
    page = reader.page(
        ("statement", reader.tenant, address),
        f"/v1/accounts/{address}/statement",
        limit,
        cursor,
        currency=currency,
        by=by.value,
        since=since,
        until=until,
    )
    place = reports.STATEMENT_END if end is None else reports.STATEMENT_END._replace(time=end)
    *found, net = page.begin(*place, "")
    asked = (reader.tenant, address, currency, reports.Place(*found), page.rows_max)
    beginning, running_net = begin or 0, int(net) if net else None
    try:
        statement = (
            await reader.read(
                lambda pool: reports.read_statement(pool, *asked, since=beginning, running_net=running_net)
            )
            if by is Dates.BOOKING
            else await reader.read_much(lambda pool: reports.read_statement_by_value(pool, *asked, since=beginning))
        )
    except reports.StatementTooLong as error:
        raise Problem(
            Kind.STATEMENT_TOO_LONG,
            f"By value date a statement can put {reports.ENTRIES_MAX} entries in order: ask for it by=booking.",
        ) from error
    lines, units, sign = page.shown(statement.lines), reader.units, account.normal_direction
    closing_minor = sign * statement.closing_net_minor
    opening_minor = sign * _compute_net_before(lines[-1]) if lines else closing_minor
    return make_json_response(
        {
            "address": address,
            "account_class": account.account_class,
            "normal_direction": DIRECTION_NAMES[sign],
            "currency": currency,
            "by": by.value,
            **make_amounts(currency, units, closing_balance=closing_minor),
            **make_amounts(currency, units, opening_balance=opening_minor),
            "items": [_make_line_view(line, sign, currency, units) for line in lines],
            "next": page.make_link_after(
                statement.lines, lambda line: (*_parse_place(line, by), str(_compute_net_before(line)))
            ),
        }
    )


def _compute_net_before(line: reports.Line) -> int:
    return line.net_minor - line.direction * line.amount_minor


def _parse_place(line: reports.Line, by: Dates) -> reports.Place:
    time = line.booked_time if by is Dates.BOOKING or line.value_time is None else line.value_time
    return reports.Place(time, line.lane, line.seq, line.leg)


def _make_line_view(line: reports.Line, sign: int, currency: str, units: Units) -> dict[str, Any]:
    balance_minor = sign * line.net_minor
    return {
        "lane": line.lane,
        "seq": line.seq,
        "leg": line.leg,
        "direction": DIRECTION_NAMES[line.direction],
        "amount_minor": line.amount_minor,
        "amount": format_decimal(line.amount_minor, currency, units),
        "balance_minor": balance_minor,
        "balance": format_decimal(balance_minor, currency, units),
        "intent_id": str(line.intent_id),
        "type": line.type,
        "reference": line.reference,
        "value_time": to_optional_rfc3339(line.value_time),
        "booked_time": format_rfc3339(line.booked_time),
    }


_SIDES: Final = ("debits", "credits", "debit_balances", "credit_balances")


def _make_sides(row: reports.ClassTotal) -> dict[str, int]:
    return {side: getattr(row, f"{side}_minor") for side in _SIDES}


@router.get("/v1/reports/trial-balance", response_model=TrialBalanceView, responses=make_problem_responses())
async def get_trial_balance(reader: AccountsReader) -> Response:
    """Turnover and balances of each class of accounts, by currency. In sound books both sides are equal."""
    units = reader.units
    classes: dict[str, list[reports.ClassTotal]] = {}
    for row in await reader.read_much(lambda pool: reports.read_trial_balance(pool, reader.tenant)):
        classes.setdefault(row.currency, []).append(row)
    return make_json_response(
        {"items": [_make_currency_view(currency, rows, units) for currency, rows in classes.items()]}
    )


def _make_currency_view(currency: str, rows: list[reports.ClassTotal], units: Units) -> dict[str, Any]:
    sums = {side: sum(_make_sides(row)[side] for row in rows) for side in _SIDES}
    return {
        "currency": currency,
        "is_balanced": sums["debits"] == sums["credits"],
        **make_amounts(currency, units, **sums),
        "classes": [
            {
                "account_class": row.account_class,
                "accounts": row.accounts,
                **make_amounts(currency, units, **_make_sides(row)),
            }
            for row in rows
        ],
    }


@router.get(
    "/v1/reports/trial-balance/accounts",
    response_model=TrialAccountsPage,
    responses=make_problem_responses(Kind.INVALID_CURSOR),
)
async def list_trial_balance_accounts(
    reader: AccountsReader,
    account_class: Annotated[AccountClass, Query(description="The class of these accounts.")],
    currency: Currency,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The accounts behind one class of the trial balance, in order of address."""
    page = reader.page(
        ("trial-balance", reader.tenant),
        "/v1/reports/trial-balance/accounts",
        limit,
        cursor,
        account_class=account_class,
        currency=currency,
    )
    (after,) = page.begin("")
    rows = await reader.read_much(
        lambda pool: reports.read_trial_balance_accounts(
            pool, reader.tenant, account_class, currency, after, page.rows_max
        )
    )
    units = reader.units
    return page.make_response(
        rows, lambda row: _make_trial_account_view(row, currency, units), lambda row: (row.address,)
    )


def _make_trial_account_view(row: reads.BalanceRow, currency: str, units: Units) -> dict[str, Any]:
    net = row.debits_minor - row.credits_minor
    sides = {
        "debits": row.debits_minor,
        "credits": row.credits_minor,
        "debit_balances": max(net, 0),
        "credit_balances": max(-net, 0),
    }
    account = {"address": row.address, "account_class": row.account_class, "currency": currency}
    return account | make_amounts(currency, units, **sides)
