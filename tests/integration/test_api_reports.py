"""Statements and the trial balance: every balance is the sum of the lines below it, on pages of any size."""

from itertools import pairwise
from typing import Any

import httpx
import pytest

from db import reports
from tests.api_bench import ApiBench, post, problem, top_up, transfer
from tests.posting_bench import PostingBench

PAGES_MAX = 100
WALLET = "/v1/accounts/users:1:wallet/statement"
BANK = "/v1/accounts/external:bank/statement"


@pytest.fixture
def client(api: ApiBench, bench: PostingBench) -> Any:
    """Yield a client of a ledger whose bank has entries in two currencies and lanes, with value dates out of order."""
    with api.client() as made:
        for day in range(9):
            value = {"value_time": f"2026-0{9 - day}-01T00:00:00Z"} if day % 3 else {}
            post(made, f"in-{day}", top_up(1, 100 + day, reference=f"day {day}", **value))
            if day % 2:
                post(made, f"out-{day}", transfer("users:1:wallet", "merchants:1", 7 + day))
                post(made, f"other-{day}", top_up(2, 50))
            bench.post()
        yen = top_up(1, 5)
        yen["legs"] = [entry | {"currency": "JPY"} for entry in yen["legs"]]
        post(made, "yen", yen)
        bench.post()
        yield made


def read(client: httpx.Client, path: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return all pages of a statement."""
    page = client.get(path, params={"currency": "EUR", **parameters}).json()
    found = [page]
    while page["next"] is not None:
        assert len(found) < PAGES_MAX
        page = client.get(page["next"]).json()
        found.append(page)
    return found


def lines(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for page in pages for line in page["items"]]


@pytest.mark.parametrize("by", ["booking", "value"])
@pytest.mark.parametrize("path", [WALLET, BANK])
def test_each_balance_is_the_sum_of_what_stands_below(client: httpx.Client, path: str, by: str) -> None:
    (whole,) = read(client, path, by=by)
    sign = {"debit": 1, "credit": -1}
    normal = sign[whole["normal_direction"]]
    balance = 0
    for line in reversed(whole["items"]):
        balance += normal * sign[line["direction"]] * line["amount_minor"]
        assert line["balance_minor"] == balance
    assert (whole["opening_balance_minor"], whole["closing_balance_minor"]) == (0, balance)
    address = path.split("/")[3]
    held = {item["currency"]: item for item in client.get(f"/v1/accounts/{address}/balances").json()["items"]}
    assert (held["EUR"]["balance_minor"], held["EUR"]["balance"]) == (balance, whole["closing_balance"])
    dates = [(line["value_time"] if by == "value" else None) or line["booked_time"] for line in whole["items"]]
    assert dates == sorted(dates, reverse=True)
    entries = client.get(f"/v1/accounts/{address}/entries?limit=1000").json()["items"]
    assert {(line["lane"], line["seq"], line["leg"]) for line in whole["items"]} == {
        (entry["lane"], entry["seq"], entry["leg"]) for entry in entries if entry["currency"] == "EUR"
    }


@pytest.mark.parametrize("by", ["booking", "value"])
def test_pages_of_any_size_hold_the_same(client: httpx.Client, by: str) -> None:
    (whole,) = read(client, BANK, by=by)
    for limit in (1, 2, 5):
        pages = read(client, BANK, by=by, limit=limit)
        assert lines(pages) == whole["items"]
        for page, following in pairwise(pages):
            assert page["opening_balance_minor"] == following["closing_balance_minor"]
        assert pages[0]["closing_balance_minor"] == whole["closing_balance_minor"]


def test_what_is_booked_between_two_pages_moves_none_of_them(client: httpx.Client, bench: PostingBench) -> None:
    (whole,) = read(client, BANK)
    page = client.get(BANK, params={"currency": "EUR", "limit": 3}).json()
    post(client, "late", top_up(1, 1_000))
    bench.post()
    assert client.get(page["next"]).json()["items"] == whole["items"][3:6]
    assert lines(read(client, BANK))[1:] == whole["items"]


@pytest.mark.parametrize("by", ["booking", "value"])
def test_a_period_has_its_own_balances(client: httpx.Client, by: str) -> None:
    (whole,) = read(client, BANK, by=by)
    moment = [(line["value_time"] if by == "value" else None) or line["booked_time"] for line in whole["items"]]
    since, until = moment[9], moment[3]
    for limit in (1000, 2):
        pages = read(client, BANK, by=by, since=since, until=until, limit=limit)
        expected = [line for line, at in zip(whole["items"], moment, strict=True) if since <= at < until]
        assert expected
        assert lines(pages) == expected
        assert pages[0]["closing_balance_minor"] == expected[0]["balance_minor"]


def test_a_statement_that_cannot_be_had_is_told(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem(client.get("/v1/accounts/users:9:wallet/statement?currency=EUR")) == "account-not-found"
    assert problem(client.get(f"{WALLET}?currency=EUR&since=yesterday")) == "invalid-request"
    assert problem(client.get(f"{WALLET}?currency=EUR&since=2026-13-01T00:00:00Z")) == "invalid-request"
    following = client.get(f"{BANK}?currency=EUR&limit=1").json()["next"]
    cursor = httpx.URL(following).params["cursor"]
    assert problem(client.get(BANK, params={"currency": "JPY", "cursor": cursor})) == "invalid-cursor"
    monkeypatch.setattr(reports, "ENTRIES_MAX", 5)
    assert problem(client.get(f"{BANK}?currency=EUR&by=value")) == "statement-too-long"
    assert client.get(f"{BANK}?currency=EUR&by=booking").status_code == 200


def test_an_account_that_never_held_the_currency_has_an_empty_statement(client: httpx.Client) -> None:
    page = client.get(f"{WALLET}?currency=USD").json()
    assert (page["items"], page["closing_balance"], page["opening_balance"]) == ([], "0.00", "0.00")


def test_both_sides_of_the_trial_balance_are_equal_and_those_of_its_accounts(client: httpx.Client) -> None:
    items = client.get("/v1/reports/trial-balance").json()["items"]
    assert [item["currency"] for item in items] == ["EUR", "JPY"]
    for item in items:
        assert item["is_balanced"]
        assert item["debits_minor"] == item["credits_minor"] > 0
        assert item["debit_balances_minor"] == item["credit_balances_minor"] > 0
        for row in item["classes"]:
            url: str | None = (
                f"/v1/reports/trial-balance/accounts?currency={item['currency']}"
                f"&account_class={row['account_class']}&limit=1"
            )
            accounts = []
            while url is not None:
                page = client.get(url).json()
                accounts += page["items"]
                url = page["next"]
            assert [account["address"] for account in accounts] == sorted(account["address"] for account in accounts)
            assert len(accounts) == row["accounts"]
            for side in ("debits", "credits", "debit_balances", "credit_balances"):
                assert sum(account[f"{side}_minor"] for account in accounts) == row[f"{side}_minor"]
    bank = next(row for row in items[0]["classes"] if row["account_class"] == "asset")
    assert (bank["accounts"], bank["debits_minor"]) == (1, sum(100 + day for day in range(9)) + 4 * 50)
    assert bank["debits"] == "11.36"


def test_tenants_see_their_own(client: httpx.Client, api: ApiBench) -> None:
    with api.client(api.new_key("other")) as other:
        assert other.get("/v1/reports/trial-balance").json() == {"items": []}
        assert problem(other.get(f"{BANK}?currency=EUR")) == "account-not-found"
        assert problem(other.get("/v1/journal/0/0")) == "journal-row-not-found"
