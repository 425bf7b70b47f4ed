"""Direct routes: answered without FastAPI, and with the same answers."""

from typing import Any

import pytest
from fastapi import APIRouter, Request, Response

import api.app
from api import intents
from api.direct_routes import answer_directly, find_direct_routes
from db.access import Scope
from tests.bare_api import Everybody, application, ask, shared

JSON = {"Content-Type": "application/json", "Idempotency-Key": "k"}
TRANSFER = {
    "type": "transfer",
    "legs": [
        {"account": "external:bank", "direction": "debit", "amount_minor": 5, "currency": "EUR"},
        {"account": "users:1", "direction": "credit", "amount_minor": 5, "currency": "EUR"},
    ],
}
POSTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/intents", {"json": TRANSFER, "headers": JSON}, 202),
    ("/v1/intents", {"json": TRANSFER, "headers": JSON | {"Prefer": "wait=0"}}, 202),
    ("/v1/intents", {"json": TRANSFER, "headers": {"Content-Type": "application/json"}}, 400),
    ("/v1/intents", {"content": b"{", "headers": JSON}, 400),
    ("/v1/intents", {"json": {"type": "transfer"}, "headers": JSON}, 422),
    ("/v1/intents", {"json": [], "headers": JSON}, 422),
    ("/v1/intents", {"content": b" " * 2000, "headers": JSON}, 413),
    ("/v1/intents", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    ("/v1/intents?wait=5", {"json": TRANSFER, "headers": JSON}, 400),
    ("/v1/intents/batch", {"json": [TRANSFER | {"idempotency_key": "k"}, TRANSFER, 7], "headers": JSON}, 200),
    ("/v1/intents/batch", {"content": b"{}", "headers": JSON}, 422),
    ("/v1/intents/batch", {"content": b"", "headers": {"Content-Type": "text/csv"}}, 415),
    ("/v1/intents/batch?a=1&b=2", {"json": [], "headers": JSON}, 400),
]


def test_a_direct_route_answers_as_fastapi_does(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = application(intent_bytes_max=1024)
    monkeypatch.setattr(api.app, "find_direct_routes", lambda _routers: {})
    through = application(intent_bytes_max=1024)
    for path, options, status in POSTS:
        answers = [ask("POST", path, app, **options) for app in (quick, through)]
        assert [answer.status_code for answer in answers] == [status, status]
        assert answers[0].content == answers[1].content
        headers = [
            {name: value for name, value in answer.headers.items() if name != "x-correlation-id"} for answer in answers
        ]
        assert headers[0] == headers[1]
    counted = [
        {line for line in app.metrics.make_exposition().decode().splitlines() if "api_requests_total{" in line}
        for app in (quick, through)
    ]
    assert counted[0] == counted[1] != set()


@pytest.mark.parametrize("key_scopes", [frozenset(), frozenset(Scope)])
def test_a_direct_route_asks_for_the_documented_scope(key_scopes: frozenset[Scope]) -> None:
    app = application()
    app.parts.authentication = Everybody(key_scopes)  # type: ignore
    answer = ask("POST", "/v1/intents", app, json=TRANSFER, headers=JSON)
    assert answer.status_code == (202 if key_scopes else 403)


def test_direct_routes_are_the_marked_ones_of_fastapis_routes() -> None:
    found = find_direct_routes([intents.router])
    assert sorted(found) == [("POST", "/v1/intents"), ("POST", "/v1/intents/batch")]
    documented = shared().openapi()["paths"]
    for method, path in found:
        assert documented[path][method.lower()]["security"] == [{"ApiKey": []}]


def test_an_endpoint_that_needs_fastapi_cannot_be_direct() -> None:
    router = APIRouter()

    @router.post("/v1/things")
    @answer_directly
    async def post_thing(request: Request, writer: intents.IntentsWriter, limit: int = 1) -> Response:
        raise NotImplementedError

    with pytest.raises(TypeError, match="/v1/things needs FastAPI"):
        find_direct_routes([router])
