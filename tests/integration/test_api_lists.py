"""Accounts, balances, entries and journal: pages, filters, cursors."""

import base64
import re
from hashlib import sha256
from typing import Any

import httpx
import orjson
import pytest

from runtime.settings import Settings
from tests.api_bench import ApiBench, post, problem, running_api, top_up, transfer
from tests.posting_bench import PostingBench

PAGES_MAX = 200
USERS = 23


@pytest.fixture
def client(api: ApiBench, bench: PostingBench) -> Any:
    """Yield a client of a ledger with USERS wallets in two currencies, a purchase, a refusal and a duplicate."""
    with api.client() as made:
        for number in range(USERS):
            post(made, f"eur-{number}", top_up(number, 100 + number))
        dollars = top_up(1, 5)
        dollars["legs"] = [entry | {"currency": "JPY"} for entry in dollars["legs"]]
        post(made, "yen", dollars)
        post(made, "eur-1", top_up(1, 101))
        bench.post()
        post(made, "buy", transfer("users:1:wallet", "merchants:1", 31, reference="tea"))
        post(made, "poor", transfer("users:2:wallet", "merchants:1", 31_000))
        bench.post()
        yield made


def all_items(client: httpx.Client, url: str) -> tuple[list[Any], int]:
    """Return all items of a list and the number of its pages."""
    items: list[Any] = []
    for pages in range(1, PAGES_MAX):
        page = client.get(url).json()
        items += page["items"]
        if page["next"] is None:
            return items, pages
        url = page["next"]
    raise AssertionError(f"{url} does not end")


def test_pages_hold_everything_once_whatever_their_size(client: httpx.Client) -> None:
    lists = {
        "/v1/accounts": USERS + 2,
        "/v1/balances": USERS + 2 + 2,
        "/v1/accounts/external:bank/entries": USERS + 1,
        "/v1/journal": USERS + 4,
        "/v1/accounts?prefix=users:1": 11,
        "/v1/balances?prefix=users:1:": 2,
        "/v1/journal?outcome=posted": USERS + 2,
        "/v1/journal?outcome=rejected": 1,
        "/v1/journal?outcome=duplicate": 1,
        "/v1/journal?outcome=quarantined": 0,
    }
    for url, count in lists.items():
        whole, pages = all_items(client, f"{url}{'&' if '?' in url else '?'}limit=1000")
        assert (url, len(whole), pages) == (url, count, 1)
        for limit in (1, 7):
            paged, _ = all_items(client, f"{url}{'&' if '?' in url else '?'}limit={limit}")
            assert (url, limit, paged) == (url, limit, whole)
    by_lane = [all_items(client, f"/v1/journal?lane={lane}&limit=3")[0] for lane in (0, 1)]
    assert by_lane[0] + by_lane[1] == all_items(client, "/v1/journal")[0]
    assert by_lane[0]
    assert by_lane[1]


def test_balances_stand_on_the_normal_side_and_have_their_currencys_decimals(client: httpx.Client) -> None:
    items = client.get("/v1/accounts/users:1:wallet/balances").json()["items"]
    assert [
        (item["currency"], item["debits_minor"], item["credits_minor"], item["balance_minor"], item["balance"])
        for item in items
    ] == [("EUR", 31, 101, 70, "0.70"), ("JPY", 0, 5, 5, "5")]
    bank = client.get("/v1/accounts/external:bank/balances").json()["items"][0]
    assert (bank["normal_direction"], bank["balance_minor"]) == ("debit", sum(100 + n for n in range(USERS)))
    account = client.get("/v1/accounts/users:1:wallet").json()
    assert (account["account_class"], account["normal_direction"], account["floor_minor"]) == ("liability", "credit", 0)
    entries = client.get("/v1/accounts/merchants:1/entries").json()["items"]
    assert [(entry["direction"], entry["amount"], entry["reference"]) for entry in entries] == [
        ("credit", "0.31", "tea")
    ]


def test_what_is_not_open_is_not_found(client: httpx.Client) -> None:
    for address in ("users:999:wallet", "not open", "users:1:wallet%00", "a" * 300, "ü"):
        for suffix in ("", "/balances", "/entries"):
            assert problem(client.get(f"/v1/accounts/{address}{suffix}")) == "account-not-found"


FORGED: list[tuple[str, dict[str, str], list[Any], list[Any]]] = [
    ("/v1/accounts", {}, ["accounts", "default", ""], [1]),
    ("/v1/balances", {}, ["balances", "default", ""], ["a", 1]),
    ("/v1/accounts/external:bank/entries", {}, ["entries", "default", "external:bank"], ["a", "b", "c"]),
    ("/v1/journal", {}, ["journal", "default", None, None], ["a", None]),
    ("/v1/breaks", {}, ["breaks", None, None, None], ["x", 1]),
    ("/v1/checkpoints", {}, ["checkpoints", "default"], ["x"]),
    (
        "/v1/accounts/external:bank/statement",
        {"currency": "EUR"},
        ["statement", "default", "external:bank", "EUR", "booking", None, None],
        [2**60, 0, 0, 0, "99999999"],
    ),
    (
        "/v1/reports/trial-balance/accounts",
        {"account_class": "asset", "currency": "EUR"},
        ["trial-balance", "default", "asset", "EUR"],
        [1],
    ),
]


@pytest.mark.parametrize(("path", "filters", "scope", "place"), FORGED, ids=[case[0] for case in FORGED])
def test_a_forged_cursor_is_refused(
    client: httpx.Client, path: str, filters: dict[str, str], scope: list[Any], place: list[Any]
) -> None:
    """In 0.1.0 anyone could compute the check: five lists answered 500, a statement showed a forged closing balance."""
    body = orjson.dumps(place)
    check = sha256(b"\x01" + orjson.dumps(scope) + b"\x00" + body).digest()[:8]
    # The second cursor has this release's version byte, so the API refuses it for its tag and not for its version.
    for raw in (b"\x01" + check + body, b"\x02" + check + check + body):
        cursor = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        assert problem(client.get(path, params=filters | {"cursor": cursor})) == "invalid-cursor"


def test_all_processes_of_a_ledger_take_each_others_cursors(settings: Settings, client: httpx.Client) -> None:
    following = client.get("/v1/accounts?limit=2").json()["next"]
    with running_api(settings) as other, other.client() as asking:
        assert asking.get(following).json() == client.get(following).json()


def test_a_cursor_that_was_touched_is_refused(client: httpx.Client) -> None:
    following = client.get("/v1/accounts?limit=2").json()["next"]
    cursor = httpx.URL(following).params["cursor"]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    assert client.get("/v1/accounts", params={"cursor": cursor}).status_code == 200
    touched = [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :] for place in range(len(cursor))
    ]
    for wrong in [*touched, cursor[:-1], cursor + "A", cursor + "=", "", "€", "a" * 1024]:
        answer = client.get("/v1/accounts", params={"cursor": wrong})
        assert (wrong, answer.status_code, problem(answer)) == (wrong, 400, "invalid-cursor")
    for other in ("/v1/balances", "/v1/journal", "/v1/accounts?prefix=users", "/v1/accounts/external:bank/entries"):
        url = httpx.URL(other)
        assert problem(client.get(url.copy_merge_params({"cursor": cursor}))) == "invalid-cursor"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "prefix=%00", "prefix=a%25", f"prefix={'a' * 257}", "cursor=" + "a" * 1025],
)
def test_parameters_out_of_range_are_told(api: ApiBench, query: str) -> None:
    with api.client() as client:
        answer = client.get(f"/v1/accounts?{query}")
    assert (answer.status_code, problem(answer)) == (422, "invalid-request")
    assert answer.json()["errors"][0]["parameter"] == f"query.{query.partition('=')[0]}"


def test_a_sum_of_lanes_beyond_63_bits_is_told_exactly(api: ApiBench, bench: PostingBench) -> None:
    """Sums beyond 64 bits, in one lane or over all lanes, are exact in every answer of the API."""
    amount_minor = 9 * 10**18 + 1
    for number in range(6):
        bench.send(bench.transfer(f"k{number}", "external:a", "external:b", amount_minor), number % 2)
    assert bench.post() == ["posted"] * 6
    total, text = 6 * amount_minor, "540000000000000000.06"
    with api.client() as client:
        (debited,) = client.get("/v1/accounts/external:a/balances").json()["items"]
        (credited,) = client.get("/v1/accounts/external:b/balances").json()["items"]
        lines, pages = all_items(client, "/v1/accounts/external:a/statement?currency=EUR&limit=1")
        (report,) = client.get("/v1/reports/trial-balance").json()["items"]
        query = "account_class=asset&currency=EUR"
        accounts = client.get(f"/v1/reports/trial-balance/accounts?{query}").json()["items"]
    assert (debited["debits_minor"], debited["debits"], debited["balance"]) == (total, text, text)
    assert (credited["balance_minor"], credited["credits"], credited["debits"]) == (-total, text, "0.00")
    assert [line["balance_minor"] for line in lines] == [amount_minor * left for left in range(6, 0, -1)]
    assert pages == 6
    assert (report["is_balanced"], report["debits_minor"], report["credits"]) == (True, total, text)
    assert {(row["address"], row["debits_minor"] - row["credits_minor"]) for row in accounts} == {
        ("external:a", total),
        ("external:b", -total),
    }


def test_the_docs_page_needs_nothing_from_elsewhere(api: ApiBench) -> None:
    page = httpx.get(f"{api.url}/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) == 4
    for source in sources:
        url = httpx.URL(api.url).join(source)
        assert url.host == httpx.URL(api.url).host
        assert httpx.get(url).status_code == 200
