"""The API without Kafka and Postgres, for tests of rules that need neither."""

import asyncio
from functools import cache
from types import SimpleNamespace
from typing import Any

import httpx

from api.app import Application, create_app
from api.configuration import Configuration
from api.outcomes import Outcomes
from api.shares import Shares
from db.access import ApiKey, Scope
from domain.topics import Topics
from producers.intents import Delivered
from runtime.shares import SHARE_BOUNDS


class Everybody:
    """An authentication that accepts every request and has no limits."""

    def __init__(self, scopes: frozenset[Scope] = frozenset(Scope)) -> None:
        self.key = ApiKey("0" * 16, "default", "test", b"", scopes, None, None)

    async def key_of(self, request: Any) -> ApiKey:  # noqa: ARG002 - the API passes it
        return self.key

    async def count_request(self, key: ApiKey) -> None:
        pass


class Accepting:
    """A submission that delivers every intent to one place."""

    async def submit(self, tenant: str, intents: list[Any], trace: Any) -> list[Delivered]:  # noqa: ARG002 - as above
        return [Delivered("payments.intents", 1, 17) for _ in intents]

    def count_refused(self, count: int) -> None:
        pass


def application(**changes: Any) -> Application:
    """Return the API without Kafka and Postgres: it answers requests that need neither."""
    configuration = Configuration("", "", "", Topics(""), **changes)  # type: ignore[arg-type]
    app = create_app(configuration)
    app.parts = SimpleNamespace(  # type: ignore[assignment]
        configuration=configuration,
        metrics=app.metrics,
        shares=Shares(SHARE_BOUNDS, app.metrics),
        authentication=Everybody(),
        submission=Accepting(),
        outcomes=Outcomes(None, None, None, app.metrics),  # type: ignore[arg-type]
        books=SimpleNamespace(units=lambda _tenant: {}),
        database=None,
        feed=None,
    )
    return app


@cache
def shared() -> Application:
    """Return one application for all tests that do not change it, because making one takes half a second."""
    return application()


def ask(method: str, path: str, app: Application | None = None, **options: Any) -> httpx.Response:
    """Send one request and return the answer."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app or shared(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def problem(answer: httpx.Response) -> str:
    """Return the kind of a problem, and check that the answer has the documented form."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    return str(document["type"]).rpartition("/")[2]
