"""A tenant that has used up its share does not hold up the others."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import psycopg

from runtime.settings import Settings
from runtime.shares import SHARE_BOUNDS, Bounds
from tests.api_bench import ApiBench, post, problem, running_api, top_up
from tests.posting_bench import PostingBench, eventually

BODY_SECONDS_MAX = 4.0


@contextmanager
def half_sent(api: ApiBench, key: str, sent: bytes = b"{") -> Iterator[socket.socket]:
    """Send a POST whose body stays incomplete, and yield its connection."""
    address = urlsplit(api.url)
    head = (
        f"POST /v1/intents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: slow\r\nContent-Length: 2000\r\n\r\n"
    )
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + sent)
        yield connection


def held(api: ApiBench) -> int:
    """Return how many requests are under way."""
    assert api.parts is not None
    return api.parts.shares.requests.held[0]


def test_slow_bodies_use_up_the_share_of_their_key_and_tenant_alone(settings: Settings) -> None:
    shares = SHARE_BOUNDS._replace(requests=Bounds(20, 6, 4))
    with running_api(settings, shares=shares, body_seconds_max=BODY_SECONDS_MAX) as api, ExitStack() as open_now:
        key, second = api.new_key("hostile"), api.new_key("hostile")
        slow = [open_now.enter_context(half_sent(api, key)) for _ in range(4)]
        eventually(lambda: held(api) == 4, "the slow bodies are under way")
        with api.client(key) as client:
            answer = post(client, "k", top_up(1, 1))
            assert (problem(answer), answer.status_code, answer.json()["bound"]) == ("share-used-up", 429, "key")
            assert int(answer.headers["retry-after"]) >= 1
        for _ in range(2):
            open_now.enter_context(half_sent(api, second))
        eventually(lambda: held(api) == 6, "the second key's too")
        with api.client(second) as client:
            assert post(client, "k", top_up(1, 1)).json()["bound"] == "tenant"
        with api.client() as other:
            assert post(other, "k", top_up(1, 1)).status_code == 202
        assert httpx.get(f"{api.url}/readyz").json()["status"] == "ready"
        # A slow body is ended after BODY_SECONDS_MAX, which frees its place.
        answered = slow[0].recv(4096)
        assert answered.startswith(b"HTTP/1.1 408")
        assert b"body-too-slow" in answered
        eventually(lambda: held(api) == 0, "all of them were ended")
        with api.client(key) as client:
            assert post(client, "k", top_up(1, 1)).status_code == 202


def test_bytes_of_bodies_are_shared_out(settings: Settings) -> None:
    shares = SHARE_BOUNDS._replace(body_bytes=Bounds(4000, 3000, 2000))
    with running_api(settings, shares=shares) as api, ExitStack() as open_now:
        assert api.parts is not None
        key, body_bytes = api.new_key("hostile"), api.parts.shares.body_bytes
        open_now.enter_context(half_sent(api, key, b"x" * 1900))
        eventually(lambda: body_bytes.held[0] == 1900, "the bytes are counted as they come")
        with api.client(key) as client, api.client() as other:
            answer = post(client, "k", top_up(1, 1))
            assert (problem(answer), answer.json()["share"]) == ("share-used-up", "body_bytes")
            assert post(other, "k", top_up(1, 1)).status_code == 202


@contextmanager
def locked(settings: Settings, table: str) -> Iterator[None]:
    """Lock the table, so that nobody can read it meanwhile."""
    assert settings.postgres_dsn is not None
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


def test_reports_that_take_too_long_are_no_outage(settings: Settings, bench: PostingBench) -> None:
    """Once, 40 reports at a time kept the whole pool busy, and the API told every client that Postgres was away."""
    with running_api(settings, read_seconds_max=0.5, heavy_read_seconds_max=1.0) as api, api.client() as other:
        assert post(other, "first", top_up(1, 1)).status_code == 202
        assert bench.post() == ["posted"]
        key = api.new_key("hostile")

        def ask(path: str) -> str:
            with api.client(key) as client:
                return problem(client.get(path))

        with locked(settings, "ledger.balance"), ThreadPoolExecutor(20) as asking:
            reports = [asking.submit(ask, "/v1/reports/trial-balance") for _ in range(10)]
            lists = [asking.submit(ask, "/v1/balances") for _ in range(10)]
            for number in range(20):
                assert post(other, f"k{number}", top_up(1, 1)).status_code == 202
                assert other.get("/v1/accounts").status_code == 200
            answers = {answer.result() for answer in (*reports, *lists)}
        assert answers == {"database-busy", "share-used-up"}
        assert httpx.get(f"{api.url}/readyz").json() == {"status": "ready"}
        metrics = httpx.get(f"{api.url}/metrics").text
        assert 'ledgerline_api_database_busy_total{cause="statement"}' in metrics
        assert 'ledgerline_api_share_refusals_total{bound="key",share="heavy_reads"}' in metrics
        assert other.get("/v1/balances").status_code == 200


def test_forty_statements_by_value_date_at_once_are_no_outage(settings: Settings, bench: PostingBench) -> None:
    """Once, these requests on 97,500 entries made the API tell every client that Postgres was away."""
    shares = SHARE_BOUNDS._replace(read_wait_seconds=0.05)
    with running_api(settings, shares=shares) as api, api.client() as other:
        key = api.new_key()
        items = [top_up(1, 1) | {"idempotency_key": f"entry {number}"} for number in range(1000)]
        assert other.post("/v1/intents/batch", json=items).status_code == 200
        assert set(bench.post()) == {"posted"}

        def ask(_: int) -> str:
            with api.client(key) as client:
                path = "/v1/accounts/users:1:wallet/statement?currency=EUR&by=value&limit=1000"
                answer = client.get(path)
                return "" if answer.status_code == 200 else problem(answer)

        with ThreadPoolExecutor(40) as asking:
            answers = asking.map(ask, range(40))
            for number in range(20):
                assert post(other, f"k{number}", top_up(1, 1)).status_code == 202
            assert set(answers) == {"", "share-used-up"}
        assert httpx.get(f"{api.url}/readyz").json() == {"status": "ready"}
