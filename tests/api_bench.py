"""An API over real servers for a test: uvicorn in a thread, on its own port, called over HTTP."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn

from api.app import Application, create_app
from api.configuration import Configuration
from api.connections import Connections
from api.parts import Parts
from api.server import make_configuration, make_connection_bounds
from db.access import Scope, add_key
from db.books import add_tenant
from db.connections import connect
from domain.topics import Topics
from ops.embedded.process import wait_until
from runtime.settings import Settings

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
START_SECONDS_MAX = 20
# For plain HTTP: by default each client of httpx loads the system's authorities, which takes 40 ms.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
READY_REQUESTS_MAX = 100


class _Server(uvicorn.Server):
    """A server that signals when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert isinstance(self.config.app, Application)
        assert self.config.app.parts is not None
        self.config.app.parts.release_waiting()
        await super().shutdown(sockets)


class ApiBench:
    """A running API, with an operator's access to its books."""

    def __init__(self, url: str, dsn: str, parts: Parts | None = None) -> None:
        self.url = url
        self.dsn = dsn
        self.parts = parts

    def new_key(self, tenant: str = "default", scopes: tuple[Scope, ...] = tuple(Scope), **options: Any) -> str:
        """Return a new API key in full; create the tenant if it is missing."""
        with connect(self.dsn, "ledgerline_operator", autocommit=True) as connection:
            add_tenant(connection, tenant)
            return add_key(connection, tenant, "test", scopes, **options)[1]

    @contextmanager
    def client(self, key: str | None = None) -> Iterator[httpx.Client]:
        """Yield a client with this key; without a key if it is empty; with a new key of all scopes if it is None."""
        given = self.new_key() if key is None else key
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        with httpx.Client(base_url=self.url, headers=headers, timeout=40, verify=NO_AUTHORITIES) as client:
            yield client


@contextmanager
def running_api(settings: Settings, *, wait_ready: bool = True, port: int = 0, **changes: Any) -> Iterator[ApiBench]:
    """Run the API with these settings, on this port or any free one; `changes` are fields of its Configuration."""
    dsn = settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
    configuration: Configuration = make_configuration(
        settings,
        kafka=settings.make_kafka(str(settings.kafka_bootstrap)),
        dsn=dsn,
        registry=settings.make_registry(str(settings.registry_url)),
        topics=Topics(settings.topic_prefix),
    )
    listener = socket.create_server(("127.0.0.1", port))
    configuration = replace(configuration, **changes)
    app = create_app(configuration)
    connections = Connections(make_connection_bounds(settings), configuration.trusted_proxies, app.metrics)
    server = _Server(
        uvicorn.Config(
            app, http=connections.protocol(), log_config=None, timeout_graceful_shutdown=5, proxy_headers=False
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api")
    thread.start()
    try:
        assert server.listening.wait(START_SECONDS_MAX), "the API did not start"
        bench = ApiBench(f"http://127.0.0.1:{listener.getsockname()[1]}", dsn, app.parts)
        if wait_ready:
            assert app.parts is not None
            intake, books = app.parts.intake, app.parts.books
            # /readyz keeps its answer for a second, so ask when the answer will be good.
            wait_until(lambda: intake.has_schema and books.is_loaded, timeout_seconds=START_SECONDS_MAX)
            await_ready(bench)
        yield bench
    finally:
        server.should_exit = True
        thread.join(START_SECONDS_MAX)
        listener.close()
    assert not thread.is_alive(), "the API did not end"


def await_ready(bench: ApiBench) -> None:
    """Ask /readyz until it answers 200."""
    pause = threading.Event()
    answer = httpx.Response(0)
    with bench.client("") as client:
        for _ in range(READY_REQUESTS_MAX):
            answer = client.get("/readyz")
            if answer.status_code == 200:
                return
            pause.wait(0.1)
    raise AssertionError(answer.text)


def leg(account: str, direction: str, amount_minor: Any, currency: Any = "EUR") -> dict[str, Any]:
    """Return a leg as JSON has it."""
    return {"account": account, "direction": direction, "amount_minor": amount_minor, "currency": currency}


def transfer(debit: str, credit: str, amount_minor: Any, **changes: Any) -> dict[str, Any]:
    """Return a transfer of two legs as JSON has it."""
    legs = [leg(debit, "debit", amount_minor), leg(credit, "credit", amount_minor)]
    return {"type": "transfer", "legs": legs, **changes}


def top_up(user: int, amount_minor: int, **changes: Any) -> dict[str, Any]:
    """Return a transfer from outside into a user's wallet."""
    return transfer("external:bank", f"users:{user}:wallet", amount_minor, **changes)


def post(client: httpx.Client, key: str, body: Any, **headers: str) -> httpx.Response:
    """Send POST /v1/intents; header names have _ for -."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/intents", json=body, headers={"Idempotency-Key": key, **given})


def problem(answer: httpx.Response) -> str:
    """Check the form of a problem; return the last part of its type."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["detail"]
    assert answer.headers["x-correlation-id"]
    return str(document["type"]).removeprefix("https://ledgerline.dev/problems/")
