"""Headers of the API's answers, HEAD requests and odd queries: rules that need no ledger."""

from types import SimpleNamespace
from typing import Any

import pytest

from api import middleware
from api.documentation import PARAMETERS
from api.parameters import parse_moment, parse_period
from api.problems import Problem
from tests.bare_api import application, ask, problem

PAGES = ("/console", "/console/assets/main.js", "/docs", "/docs/start.js", "/docs/assets/swagger-ui.css")
SOME_ID = "00000000-0000-0000-0000-000000000001"


# ------------------------------------------------------------------------------------------------------ headers

ANSWERS = [
    ("GET", "/livez", {}, 200, None),
    ("GET", "/openapi.json", {}, 200, None),
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/console/assets/nowhere.js", {}, 404, "not-found"),
    ("GET", "/docs/assets/nowhere.js", {}, 404, "not-found"),
    ("GET", "/console/assets/../routes.py", {}, 404, "not-found"),
    ("DELETE", "/v1/accounts", {}, 405, "method-not-allowed"),
    ("PUT", "/v1/intents", {}, 405, "method-not-allowed"),
    ("POST", "/console/assets/main.js", {}, 405, "method-not-allowed"),
    ("TRACE", "/v1/intents", {}, 405, "method-not-allowed"),
    ("POST", "/v1/intents", {"headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),
    ("POST", "/v1/intents", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported-media-type"),
    ("POST", "/v1/intents/batch", {"headers": {"Content-Encoding": "br"}}, 415, "unsupported-media-type"),
    ("GET", "/v1/accounts/users:1/balances?x=1", {}, 400, "unknown-parameter"),
    ("GET", "/v1/accounts?limit=many", {}, 422, "invalid-request"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "kind"), ANSWERS)
def test_every_answer_is_for_nobody_to_keep_and_every_error_is_a_problem(
    method: str, path: str, options: dict[str, Any], status: int, kind: str | None
) -> None:
    answer = ask(method, path, **options)
    assert answer.status_code == status
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert len(answer.headers.get_list("x-correlation-id")) == 1
    if kind is not None:
        assert problem(answer) == kind


def test_a_body_that_is_too_large_is_a_problem_with_the_same_headers() -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = ask("POST", "/v1/intents", application(intent_bytes_max=1024), content=b" " * 2000, headers=headers)
    assert (answer.status_code, problem(answer)) == (413, "body-too-large")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("where", ["route", "layer"])
def test_a_fault_of_ours_is_a_problem_too(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = application()

    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    if where == "route":
        app.parts.authentication = SimpleNamespace(key_of=fail)  # type: ignore
    else:
        monkeypatch.setattr(middleware, "read_trace", fail)
    answer = ask("GET", "/v1/accounts", app)
    assert (answer.status_code, problem(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_pages_and_their_files_have_the_same_guards(path: str) -> None:
    answer = ask("GET", path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    for name, value in (
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-cache"),
    ):
        assert answer.headers.get_list(name) == [value]


def test_the_documents_page_keeps_no_key() -> None:
    assert PARAMETERS["persistAuthorization"] is False
    assert "<script>" not in ask("GET", "/docs").text  # the page's content security policy refuses inline scripts
    start = ask("GET", "/docs/start.js").text
    assert '"persistAuthorization": false' in start
    assert 'localStorage.removeItem("authorized")' in start


def test_the_documents_can_be_switched_off() -> None:
    app = application(documents=False)
    for path in ("/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json", "/redoc"):
        answer = ask("GET", path, app)
        assert problem(answer) == "not-found"
        assert "openapi.json" not in answer.text


def test_the_bare_address_leads_to_the_console() -> None:
    answer = ask("GET", "/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/console")


# --------------------------------------------------------------------------------------------------------- HEAD


@pytest.mark.parametrize("path", ["/", "/livez", "/openapi.json", "/nowhere", "/v1/accounts?limit=many", *PAGES])
def test_head_answers_as_get_without_the_body(path: str) -> None:
    got, headed = ask("GET", path), ask("HEAD", path)
    assert headed.status_code == got.status_code
    assert headed.content == b""
    changing = {"x-correlation-id"}
    assert {n: v for n, v in headed.headers.items() if n not in changing} == {
        n: v for n, v in got.headers.items() if n not in changing
    }


def test_head_of_a_post_is_refused_and_what_is_allowed_is_told() -> None:
    assert ask("HEAD", "/v1/intents").status_code == 405
    assert ask("DELETE", "/v1/accounts").headers["allow"] == "GET, HEAD"


# ------------------------------------------------------------------------------------------------------ queries

UNKNOWN = [
    ("GET", "/v1/accounts/users:1/statement?curency=EUR", "curency", "currency"),
    ("GET", "/v1/accounts?Prefix=users", "Prefix", "prefix"),
    ("GET", "/v1/journal?outcomes=posted", "outcomes", "outcome"),
    ("GET", "/v1/breaks?status=open", "status", "state"),
    ("GET", "/v1/checkpoints?offset=1", "offset", None),
    ("GET", "/v1/reports/trial-balance?currency=EUR", "currency", None),
    ("GET", f"/v1/intents/{SOME_ID}?ofset=1&partition=1", "ofset", "offset"),
    ("POST", "/v1/intents?wait=5", "wait", None),
    ("POST", "/v1/intents/batch?dry_run=true", "dry_run", None),
    ("HEAD", "/v1/balances?prefx=a", "prefx", "prefix"),
]


@pytest.mark.parametrize(("method", "path", "name", "nearest"), UNKNOWN, ids=[path for _, path, _, _ in UNKNOWN])
def test_a_name_that_is_not_known_is_refused_with_the_nearest(
    method: str, path: str, name: str, nearest: str | None
) -> None:
    answer = ask(method, path)
    assert answer.status_code == 400
    if method != "HEAD":
        assert problem(answer) == "unknown-parameter"
        assert (answer.json()["parameter"], answer.json().get("nearest")) == (name, nearest)
        assert (f"is {nearest} meant?" in answer.json()["detail"]) == (nearest is not None)


def test_every_route_behind_a_key_refuses_a_name_that_it_does_not_know() -> None:
    app = application()
    values = {
        "intent_id": SOME_ID, "address": "users:1", "lane": "0", "seq": "0", "schedule_id": SOME_ID,
        "webhook_id": SOME_ID, "delivery_id": SOME_ID,
    }  # fmt: skip
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if "security" in operation:
                answer = ask(method.upper(), f"{path.format(**values)}?nobody_asks=1", app)
                assert (path, answer.status_code, problem(answer)) == (path, 400, "unknown-parameter")
                asked += 1
    assert asked > 15


def test_a_name_that_is_given_twice_is_refused() -> None:
    answer = ask("GET", "/v1/accounts?limit=5&limit=7")
    assert problem(answer) == "bad-request"
    assert answer.json()["detail"] == "The parameter limit is given 2 times: give it once."


STATEMENT = "/v1/accounts/users:1/statement"
ODD_VALUES = [
    (f"{STATEMENT}?currency=eur", 422, "The parameter currency is written in capitals, such as EUR."),
    (f"{STATEMENT}?currency=€", 422, "The parameter currency is a currency or a registered unit in capitals"),
    (STATEMENT, 422, "The parameter currency is missing: this list needs it."),
    ("/v1/accounts?limit=ten", 422, "The parameter limit is a whole number, such as 100."),
    ("/v1/accounts?limit=0", 422, "The parameter limit cannot be taken: input should be greater than or equal to 1."),
    ("/v1/accounts?prefix=users/1", 422, "The parameter prefix is the beginning of an address"),
    (
        "/v1/journal?outcome=lost",
        422,
        "The parameter outcome is one of 'quarantined', 'idempotency_conflict',",
    ),
    ("/v1/intents/17", 422, "The parameter intent_id is an id as answered when the intent was posted"),
    (
        f"{STATEMENT}?currency=EUR&since=2024-01-01",
        422,
        "of that day in UTC write 2024-01-01T00:00:00Z.",
    ),
    (f"{STATEMENT}?currency=EUR&until=2024-01-01T00:00:00", 422, "has no zone: write 2024-01-01T00:00:00Z for UTC,"),
    (f"{STATEMENT}?currency=EUR&since=2024-01-01T00:00:00+01:00", 422, "in an address + is written %2B"),
    (f"{STATEMENT}?currency=EUR&since=2024-02-30T00:00:00Z", 422, "is no moment that there is: '2024-02-30T00:00:00Z'"),
    (f"{STATEMENT}?currency=EUR&since=yesterday", 422, "such as 2026-01-31T12:00:00Z or"),
    (
        f"{STATEMENT}?currency=EUR&since=2024-02-01T00:00:00Z&until=2024-01-01T00:00:00Z",
        400,
        "The period ends before it begins: since (2024-02-01T00:00:00Z) is later than until (2024-01-01T00:00:00Z).",
    ),
]


@pytest.mark.parametrize(("path", "status", "sentence"), ODD_VALUES, ids=[path for path, _, _ in ODD_VALUES])
def test_an_odd_value_is_told_in_peoples_words(path: str, status: int, sentence: str) -> None:
    answer = ask("GET", path)
    assert answer.status_code == status
    document = answer.json()
    told = document["detail"] + " ".join(fault["detail"] for fault in document.get("errors", ()))
    assert sentence in told
    assert "pattern" not in told, "nobody is shown a regular expression"
    assert "\\d" not in told


def test_a_moment_and_an_equal_period_are_taken() -> None:
    assert parse_moment(None, "since") is None
    assert parse_moment("1970-01-01T00:00:01+00:00", "since") == 1_000_000
    assert parse_period("1970-01-01T00:00:01Z", "1970-01-01T00:00:01Z") == (1_000_000, 1_000_000)
    with pytest.raises(Problem):
        parse_period("1970-01-01T00:00:02Z", "1970-01-01T00:00:01Z")
