"""What the API answers while Kafka, Postgres or the registry is unavailable, at its start and later."""

import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from api import authentication
from domain.intents import compute_intent_id
from domain.topics import Topics
from ops.embedded.stack import EmbeddedStack, Endpoints
from producers.deploy import Replication, make_topics
from runtime.kafka import Kafka
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import ApiBench, await_ready, post, problem, running_api, top_up
from tests.posting_bench import PostingBench

ATTEMPTS_MAX = 100
DELIVERY_TIMEOUT_SECONDS = 2.0


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a port on which nothing listens while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but not listening: a connection is refused
        yield held.getsockname()[1]


def missing(client: httpx.Client) -> set[str]:
    """Return what /readyz reports as missing."""
    answer = client.get("/readyz")
    assert problem(answer) == "not-ready"
    return set(answer.json()["missing"])


def answer_when(ask: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """Ask until an answer has this status, and return it; raise AssertionError after ATTEMPTS_MAX attempts."""
    pause = threading.Event()
    for _ in range(ATTEMPTS_MAX):
        answer = ask()
        if answer.status_code == status:
            return answer
        pause.wait(0.1)
    raise AssertionError(f"{answer.status_code}: {answer.text}")


@pytest.mark.parametrize("noticed_by", ["an intent", "the readiness probe"])
def test_a_producer_that_stays_deaf_is_replaced(settings: Settings, closed_port: int, noticed_by: str) -> None:
    """Kafka works; the test gives the API a client without answers, as librdkafka's once was after a standstill."""
    with running_api(settings, delivery_timeout_seconds=DELIVERY_TIMEOUT_SECONDS) as api, api.client() as client:
        assert post(client, "before", top_up(1, 100)).status_code == 202
        assert api.parts is not None
        kept = api.parts.intake.producer
        deaf = Producer({"bootstrap.servers": f"127.0.0.1:{closed_port}", "delivery.timeout.ms": 1000, "log_level": 0})
        kept._producer = deaf
        if noticed_by == "an intent":
            assert problem(post(client, "deaf", top_up(1, 100))) == "kafka-unavailable"
        else:
            answer_when(lambda: client.get("/readyz"), 503)
            answer_when(lambda: client.get("/readyz"), 200)
        assert kept._producer is not deaf
        assert post(client, "deaf", top_up(1, 100)).status_code == 202


def test_kafka_away_is_503_and_nothing_half_done(settings: Settings, closed_port: int) -> None:
    away = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{closed_port}"})
    with (
        running_api(away, wait_ready=False, delivery_timeout_seconds=DELIVERY_TIMEOUT_SECONDS) as api,
        api.client() as client,
    ):
        answer_when(lambda: client.get("/v1/accounts"), 200)  # a request that needs no Kafka is answered
        answer = answer_when(lambda: post(client, "k", top_up(1, 1)), 503)
        assert answer.headers["retry-after"]
        assert "kafka" in missing(client)
        assert client.get("/livez").status_code == 200
        batch = [top_up(1, 1) | {"idempotency_key": f"k{number}"} for number in range(3)]
        items = client.post("/v1/intents/batch", json=batch).json()["items"]
        assert [item["status"] for item in items] == [503] * 3
        assert {item["problem"]["type"].rpartition("/")[2] for item in items} == {"kafka-unavailable"}


@pytest.fixture
def own_broker(stack: Endpoints, tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Yield a broker that the test may stop; Postgres and the registry are the session's."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    parts = EmbeddedStack(tmp_path / "own", cache=cache, postgres=stack.postgres_dsn, registry=stack.registry_url)
    with parts:
        yield parts


def test_an_intent_that_kafka_does_not_confirm_may_be_sent_again(
    settings: Settings, topics: Topics, own_broker: EmbeddedStack
) -> None:
    bootstrap = own_broker.kafka.bootstrap
    make_topics(Kafka(bootstrap), topics, 2, Replication())
    moved = settings.model_copy(update={"kafka_bootstrap": bootstrap})
    with running_api(moved, delivery_timeout_seconds=DELIVERY_TIMEOUT_SECONDS) as api, api.client() as client:
        assert post(client, "before", top_up(1, 1)).status_code == 202
        own_broker.kafka.stop()
        refused = post(client, "k", top_up(1, 2))
        assert problem(refused) == "kafka-unavailable"
        assert "same key" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        assert "kafka" in missing(client)
        own_broker.kafka.start()
        await_ready(api)
        again = answer_when(lambda: post(client, "k", top_up(1, 2)), 202)
        assert again.json()["intent_id"] == str(compute_intent_id("default", "k"))
    bench = PostingBench(moved, topics)
    fates = bench.post()
    bench.close()
    assert fates.count("posted") == 2  # each intent once, however often the client sent it
    assert set(fates) <= {"posted", "duplicate"}


def test_postgres_away_at_the_start_is_waited_for(settings: Settings, closed_port: int) -> None:
    dsn = make_conninfo(settings.postgres_dsn.get_secret_value(), host="127.0.0.1", port=closed_port)  # type: ignore[union-attr]
    away = settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})
    with running_api(away, wait_ready=False) as api, api.client(f"llk_{'0' * 16}_{'x' * 43}") as client:
        assert {"postgres", "books"} <= missing(client)
        answer = client.get("/v1/accounts")
        assert problem(answer) == "database-unavailable"
        assert answer.headers["retry-after"]
        assert client.get("/livez").status_code == 200
        assert client.get("/metrics").status_code == 200


@contextmanager
def database_shut(dsn: str) -> Iterator[None]:
    """Refuse new connections to the database, and end those that exist."""
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (conninfo_to_dict(dsn)["dbname"],),
        )
        try:
            yield
        finally:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def test_while_postgres_is_away_intents_of_known_keys_are_taken(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client, api.client() as stranger:
        assert post(client, "k1", top_up(1, 1)).status_code == 202
        with database_shut(api.dsn):
            answer = answer_when(lambda: post(client, "k2", top_up(1, 2)), 202)
            assert problem(post(stranger, "k3", top_up(1, 3))) == "database-unavailable"
            assert problem(client.get("/v1/accounts")) == "database-unavailable"
            reversal = {"type": "reversal", "reverses": answer.json()["intent_id"]}
            assert problem(post(client, "k4", reversal)) == "database-unavailable"
            # The API cannot look up whether these are repeats, so it takes them; posting finds out later.
            assert post(client, "k1", top_up(1, 1)).status_code == 202
            assert post(client, "k1", top_up(1, 9)).status_code == 202
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"], set(ready.json()["degraded"])) == (
                200, "degraded", {"postgres"},
            )  # fmt: skip
        answer_when(lambda: post(stranger, "k3", top_up(1, 3)), 202)
        answer_when(lambda: client.get("/v1/accounts"), 200)
        assert client.get("/readyz").json() == {"status": "ready"}
    bench.close()
    bench.poster = bench.new_poster()
    assert sorted(bench.post()) == ["duplicate", "idempotency_conflict", "posted", "posted", "posted"]


def test_a_key_is_trusted_for_a_while_only(api: ApiBench, bench: PostingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with api.client() as client:
        assert post(client, "k1", top_up(1, 1)).status_code == 202
        with database_shut(api.dsn):
            answer_when(lambda: post(client, "k2", top_up(1, 2)), 202)
            monkeypatch.setattr(authentication, "_CACHE_SECONDS", 0.0)
            monkeypatch.setattr(authentication, "TRUSTED_SECONDS_MAX", 0.0)
            assert problem(post(client, "k3", top_up(1, 3))) == "database-unavailable"
    bench.close()
    bench.poster = bench.new_poster()
    assert set(bench.post()) <= {"posted", "duplicate"}


def test_connections_that_died_in_the_pool_are_not_noticed_by_clients(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        assert client.get("/v1/accounts").status_code == 200
        bench.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE starts_with(application_name, 'ledgerline_api')"
        )
        assert client.get("/v1/journal").status_code == 200


def test_a_waiting_request_survives_the_loss_of_the_listener(api: ApiBench, bench: PostingBench) -> None:
    answers: list[Any] = []
    with api.client() as client:
        waiting = threading.Thread(target=lambda: answers.append(post(client, "k", top_up(1, 1), Prefer="wait=25")))
        waiting.start()
        pause = threading.Event()
        for _ in range(ATTEMPTS_MAX):
            if bench.fetch():
                break
            pause.wait(0.1)
        bench.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE starts_with(application_name, 'ledgerline_api')"
        )
        assert bench.post() == ["posted"]  # the notification may be sent while no connection listens
        waiting.join(30)
    assert [answer.status_code for answer in answers] == [200]


def test_what_kafka_has_is_pending_though_postgres_went_away_meanwhile(api: ApiBench, bench: PostingBench) -> None:
    answers: list[Any] = []
    with api.client() as client:
        waiting = threading.Thread(target=lambda: answers.append(post(client, "k", top_up(1, 1), Prefer="wait=6")))
        waiting.start()
        pause = threading.Event()
        for _ in range(ATTEMPTS_MAX):
            if bench.fetch():
                break
            pause.wait(0.1)
        with database_shut(api.dsn):
            waiting.join(30)
    assert [answer.status_code for answer in answers] == [202]


def test_the_registry_away_at_the_start_is_named_and_waited_for(settings: Settings, closed_port: int) -> None:
    away = settings.model_copy(update={"registry_url": f"http://127.0.0.1:{closed_port}"})
    with running_api(away, wait_ready=False) as api, api.client() as client:
        answer_when(lambda: client.get("/v1/accounts"), 200)
        assert missing(client) == {"schema"}
        answer = post(client, "k", top_up(1, 1))
        assert problem(answer) == "not-ready"
        assert answer.headers["retry-after"]


class _Forward(socketserver.BaseRequestHandler):
    """Forwards bytes between a client and the registry, in both directions."""

    server: "_Way"

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as onward:
            back = threading.Thread(target=self.pump, args=(onward, self.request))
            back.start()
            self.pump(self.request, onward)
            back.join()

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        """Copy bytes until the source ends."""
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class _Way(socketserver.ThreadingTCPServer):
    """A proxy to the registry that a test can close."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target


def test_the_registry_is_not_needed_once_the_schema_is_known(settings: Settings, bench: PostingBench) -> None:
    registry = httpx.URL(str(settings.registry_url))
    way = _Way((registry.host, registry.port or 80))
    serving = threading.Thread(target=way.serve_forever)
    serving.start()
    through = settings.model_copy(update={"registry_url": str(registry.copy_with(port=way.server_address[1]))})
    try:
        with running_api(through) as api, api.client() as client:
            way.shutdown()
            way.server_close()
            assert client.get("/readyz").json() == {"status": "ready"}
            assert post(client, "k", top_up(1, 1)).status_code == 202
        assert bench.post() == ["posted"]
    finally:
        way.shutdown()
        serving.join()
