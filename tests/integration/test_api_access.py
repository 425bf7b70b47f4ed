"""Access to the API: keys, scopes, tenants and rate limits."""

import re
import threading
from datetime import UTC, datetime, timedelta

import httpx

from api.addresses import TrustedProxies
from api.authentication import FAILURES_PER_MINUTE
from db.access import Scope, add_key, revoke_key
from db.connections import connect
from runtime.settings import Settings
from tests.api_bench import ApiBench, post, problem, running_api, top_up
from tests.posting_bench import PostingBench

REVOCATION_REQUESTS_MAX = 100
ROUTES: list[tuple[str, str, Scope]] = [
    ("POST", "/v1/intents", Scope.INTENTS_WRITE),
    ("POST", "/v1/intents/batch", Scope.INTENTS_WRITE),
    ("GET", "/v1/intents/00000000-0000-0000-0000-000000000001", Scope.INTENTS_READ),
    ("POST", "/v1/schedules", Scope.SCHEDULES_WRITE),
    ("GET", "/v1/schedules", Scope.SCHEDULES_READ),
    ("GET", "/v1/schedules/00000000-0000-0000-0000-000000000001", Scope.SCHEDULES_READ),
    ("GET", "/v1/schedules/00000000-0000-0000-0000-000000000001/occurrences", Scope.SCHEDULES_READ),
    ("PATCH", "/v1/schedules/00000000-0000-0000-0000-000000000001", Scope.SCHEDULES_WRITE),
    ("POST", "/v1/schedules/00000000-0000-0000-0000-000000000001/pause", Scope.SCHEDULES_WRITE),
    ("POST", "/v1/schedules/00000000-0000-0000-0000-000000000001/resume", Scope.SCHEDULES_WRITE),
    ("POST", "/v1/schedules/00000000-0000-0000-0000-000000000001/end", Scope.SCHEDULES_WRITE),
    ("GET", "/v1/accounts", Scope.ACCOUNTS_READ),
    ("GET", "/v1/accounts/users:1", Scope.ACCOUNTS_READ),
    ("GET", "/v1/accounts/users:1/balances", Scope.ACCOUNTS_READ),
    ("GET", "/v1/accounts/users:1/entries", Scope.ACCOUNTS_READ),
    ("GET", "/v1/balances", Scope.ACCOUNTS_READ),
    ("GET", "/v1/journal", Scope.JOURNAL_READ),
    ("GET", "/v1/journal/0/0", Scope.JOURNAL_READ),
    ("GET", "/v1/intents/00000000-0000-0000-0000-000000000001/proof", Scope.INTENTS_READ),
    ("GET", "/v1/intents/00000000-0000-0000-0000-000000000001/receipt", Scope.INTENTS_READ),
    ("GET", "/v1/accounts/users:1/statement?currency=EUR", Scope.ACCOUNTS_READ),
    ("GET", "/v1/reports/trial-balance", Scope.ACCOUNTS_READ),
    ("GET", "/v1/reports/trial-balance/accounts?account_class=asset&currency=EUR", Scope.ACCOUNTS_READ),
    ("GET", "/v1/breaks", Scope.JOURNAL_READ),
    ("GET", "/v1/checkpoints", Scope.JOURNAL_READ),
    ("GET", "/v1/signing-keys", Scope.JOURNAL_READ),
    ("POST", "/v1/webhooks", Scope.WEBHOOKS_WRITE),
    ("GET", "/v1/webhooks", Scope.WEBHOOKS_READ),
    ("GET", "/v1/webhooks/00000000-0000-0000-0000-000000000001", Scope.WEBHOOKS_READ),
    ("PATCH", "/v1/webhooks/00000000-0000-0000-0000-000000000001", Scope.WEBHOOKS_WRITE),
    ("DELETE", "/v1/webhooks/00000000-0000-0000-0000-000000000001", Scope.WEBHOOKS_WRITE),
    ("POST", "/v1/webhooks/00000000-0000-0000-0000-000000000001/secret", Scope.WEBHOOKS_WRITE),
    ("POST", "/v1/webhooks/00000000-0000-0000-0000-000000000001/test", Scope.WEBHOOKS_WRITE),
    ("GET", "/v1/webhooks/00000000-0000-0000-0000-000000000001/deliveries", Scope.WEBHOOKS_READ),
    (
        "GET",
        "/v1/webhooks/00000000-0000-0000-0000-000000000001/deliveries/00000000-0000-0000-0000-000000000001",
        Scope.WEBHOOKS_READ,
    ),
    (
        "POST",
        "/v1/webhooks/00000000-0000-0000-0000-000000000001/deliveries/00000000-0000-0000-0000-000000000001/replay",
        Scope.WEBHOOKS_WRITE,
    ),
    ("POST", "/v1/webhooks/00000000-0000-0000-0000-000000000001/replay", Scope.WEBHOOKS_WRITE),
]


def test_each_route_needs_a_key_with_its_scope(api: ApiBench) -> None:
    listed = {
        (method.upper(), re.sub(r"\{.*?\}", "x", path))
        for path, methods in httpx.get(f"{api.url}/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/v1")
    }
    assert len(listed) == len(ROUTES)  # a new route needs a line above
    keys = {scope: api.new_key(scopes=(scope,)) for scope in Scope}
    with api.client("") as client:
        for method, path, needed in ROUTES:
            assert problem(client.request(method, path)) == "unauthenticated"
            for scope, key in keys.items():
                answer = client.request(method, path, headers={"Authorization": f"Bearer {key}"})
                refused = answer.status_code in (401, 403)
                assert refused == (scope is not needed), (method, path, scope)
                if refused:
                    assert problem(answer) == "scope-missing"
                    assert answer.json()["required_scope"] == needed.value


def test_what_is_no_key_is_refused(api: ApiBench) -> None:
    key = api.new_key()
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for given in ("Bearer x", "Basic dTpw", f"Bearer {wrong}", f"Bearer {key}x", "Bearer llk__", f"bearer{key}"):
        answer = httpx.get(f"{api.url}/v1/accounts", headers={"Authorization": given})
        assert (given, problem(answer)) == (given, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{api.url}/v1/accounts", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_revoked_key_stops_working_within_seconds(api: ApiBench) -> None:
    key = api.new_key()
    with api.client(key) as client:
        assert client.get("/v1/accounts").status_code == 200
        with connect(api.dsn, "ledgerline_operator", autocommit=True) as connection:
            revoke_key(connection, key.split("_")[1])
        pause = threading.Event()
        for _ in range(REVOCATION_REQUESTS_MAX):
            answer = client.get("/v1/accounts")
            if answer.status_code == 401:
                break
            pause.wait(0.1)
        assert problem(answer) == "unauthenticated"


def test_a_key_ends_by_itself(api: ApiBench) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    with connect(api.dsn, "ledgerline_operator", autocommit=True) as connection:
        _, short = add_key(connection, "default", "short", list(Scope), None, ends)
        _, over = add_key(connection, "default", "over", list(Scope), None, ends - timedelta(days=1))
        _, long = add_key(connection, "default", "long", list(Scope), None, ends + timedelta(days=1))
    with api.client(short) as client:
        while client.get("/v1/accounts").status_code == 200:
            assert datetime.now(UTC) < ends + timedelta(seconds=1)
        assert problem(client.get("/v1/accounts")) == "unauthenticated"
        assert datetime.now(UTC) >= ends
    with api.client(over) as client:
        assert problem(client.get("/v1/accounts")) == "unauthenticated"
    with api.client(long) as client:
        assert client.get("/v1/accounts").status_code == 200


def test_a_secret_is_stored_as_its_hash_only(api: ApiBench, bench: PostingBench) -> None:
    secret = api.new_key().split("_", 2)[2]
    (row,) = bench.rows("SELECT k::text AS stored FROM access.api_key AS k")
    assert secret not in row["stored"]


def test_no_tenant_sees_what_is_of_another(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as mine, api.client(api.new_key("other")) as theirs:
        posted = post(mine, "k", top_up(1, 700))
        same_key = post(theirs, "k", top_up(2, 900))
        assert posted.json()["intent_id"] != same_key.json()["intent_id"]
        assert bench.post() == ["posted", "posted"]
        assert problem(theirs.get(posted.headers["location"])) == "intent-not-found"
        assert problem(theirs.get("/v1/accounts/users:1:wallet")) == "account-not-found"
        assert problem(theirs.get("/v1/accounts/users:1:wallet/balances")) == "account-not-found"
        assert problem(theirs.get("/v1/accounts/users:1:wallet/entries")) == "account-not-found"
        for path, names in (("/v1/accounts", "address"), ("/v1/balances", "address")):
            shown = [item[names] for item in theirs.get(path).json()["items"]]
            assert shown == ["external:bank", "users:2:wallet"]
        assert [row["intent_id"] for row in theirs.get("/v1/journal").json()["items"]] == [same_key.json()["intent_id"]]
        reversal = {"type": "reversal", "reverses": posted.json()["intent_id"]}
        assert problem(post(theirs, "undo", reversal)) == "original-not-posted"


def test_a_key_is_held_to_its_rate(api: ApiBench) -> None:
    with api.client(api.new_key(requests_per_minute=5)) as client, api.client() as other:
        answers = [client.get("/v1/accounts") for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
        assert problem(answers[-1]) == "rate-limited"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].headers["ratelimit-limit"] == "5"
        assert answers[-1].headers["ratelimit-remaining"] == "0"
        assert other.get("/v1/accounts").status_code == 200


def test_wrong_keys_are_limited_by_address_and_good_ones_taken(settings: Settings) -> None:
    """Good keys, known or new, still work from an address with too many wrong keys: a balancer's clients share one."""
    with running_api(settings) as api, api.client(f"llk_{'0' * 16}_{'x' * 43}") as guesser, api.client() as known:
        assert known.get("/v1/accounts").status_code == 200
        answers = [
            guesser.get("/v1/accounts", headers={"X-Forwarded-For": f"9.9.9.{number}"})
            for number in range(FAILURES_PER_MINUTE + 5)
        ]
        assert {problem(answer) for answer in answers[:FAILURES_PER_MINUTE]} == {"unauthenticated"}
        # X-Forwarded-For is not believed by default, not even from loopback: all requests count for one address.
        assert {problem(answer) for answer in answers[FAILURES_PER_MINUTE:]} == {"rate-limited"}
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert known.get("/v1/accounts").status_code == 200
        with api.client() as new:
            assert new.get("/v1/accounts").status_code == 200


def test_wrong_keys_are_limited_by_key_id_and_the_key_is_taken(settings: Settings) -> None:
    """The wrong keys come from many addresses, as a trusted proxy reports, so the limit counts them by key id."""
    trusted = TrustedProxies(hops=1)
    with running_api(settings, trusted_proxies=trusted) as api, api.client() as owner:
        assert owner.get("/v1/accounts").status_code == 200
        key_id = owner.headers["authorization"].split("_")[1]
        with api.client(f"llk_{key_id}_{'x' * 43}") as guesser:
            answers = [
                problem(guesser.get("/v1/accounts", headers={"X-Forwarded-For": f"9.9.9.{number}"}))
                for number in range(FAILURES_PER_MINUTE + 5)
            ]
        assert answers == ["unauthenticated"] * FAILURES_PER_MINUTE + ["rate-limited"] * 5
        assert owner.get("/v1/accounts").status_code == 200
        unknown = {"Authorization": "Bearer x", "X-Forwarded-For": "9.9.9.9"}
        assert problem(httpx.get(f"{api.url}/v1/accounts", headers=unknown)) == "unauthenticated"


def test_each_answer_is_counted_under_its_route(api: ApiBench) -> None:
    with api.client() as client:
        assert post(client, "k", top_up(1, 1)).status_code == 202
        assert problem(post(client, "k", {"type": "transfer"})) == "no-legs"
        assert client.post("/v1/intents/batch", json=[top_up(1, 1)]).status_code == 200
        assert problem(client.get("/v1/intents")) == "method-not-allowed"
        assert problem(client.get("/v1/elsewhere")) == "not-found"
        counted = client.get("/metrics").text
    for method, route, status in (
        ("POST", "/v1/intents", 202),
        ("POST", "/v1/intents", 422),
        ("POST", "/v1/intents/batch", 200),
        ("GET", "/v1/intents", 405),
        ("GET", "(none)", 404),
    ):
        line = f'ledgerline_api_requests_total{{method="{method}",route="{route}",status="{status}"}} 1.0'
        assert line in counted
