"""Connections without a key that cost the API more than their client: each is ended, and others are answered."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from runtime.settings import Settings
from tests.posting_bench import eventually
from tests.service_process import ServiceProcess

GROWTH_BYTES_MAX = 64_000_000
SENT_BYTES_MAX = 20_000_000
ANSWER_SECONDS_MAX = 3.0
UNREAD_CONNECTIONS = 100
BOUNDS = {"UNREAD_BYTES_MAX": "5000000", "HEAD_SECONDS_MAX": "2", "IDLE_SECONDS_MAX": "1", "UNREAD_SECONDS_MAX": "2"}


@pytest.fixture
def api(settings: Settings, tmp_path: Path) -> Iterator[ServiceProcess]:
    bounds = {f"LEDGERLINE_API_{name}": bound for name, bound in BOUNDS.items()}
    with ServiceProcess("api", settings, tmp_path, **bounds) as process:
        process.wait_until_ready()
        check_others_are_answered(process)
        yield process


def connect(api: ServiceProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), timeout=10)


def send_until_refused(client: socket.socket, begin: bytes, more: bytes) -> int:
    """Send without reading until the API stops reading or ends the connection; return how many bytes it took."""
    sent = 0
    client.settimeout(2)
    try:
        client.sendall(begin)
        while sent < SENT_BYTES_MAX:
            client.sendall(more)
            sent += len(more)
    except OSError:
        pass
    return sent


def check_others_are_answered(api: ServiceProcess) -> None:
    began = time.monotonic()
    assert httpx.get(f"http://127.0.0.1:{api.port}/livez", timeout=10).status_code == 200
    assert time.monotonic() - began < ANSWER_SECONDS_MAX


def test_no_socket_fills_the_memory_or_stops_the_others(api: ServiceProcess) -> None:
    """Once, 68 MB of pipelined requests took 5 GB of memory, and an endless header blocked all others for 9 seconds."""
    process = psutil.Process(api.process.pid)
    before = process.memory_info().rss
    with ExitStack() as held:
        for begin, more in [
            (b"", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000),
            (b"GET /livez HTTP/1.1\r\nHost: ", b"x" * 65_536),
            (b"GET /livez HTTP/1.1\r\n", b"".join(b"h%d: x\r\n" % number for number in range(5_000))),
            (b"POST /v1/intents HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ", b"x" * 65_536),
        ]:
            client = held.enter_context(connect(api))
            assert send_until_refused(client, begin, more) < SENT_BYTES_MAX, begin
            check_others_are_answered(api)
        for _ in range(UNREAD_CONNECTIONS):
            client = held.enter_context(connect(api))
            client.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
        check_others_are_answered(api)
        assert process.memory_info().rss - before < GROWTH_BYTES_MAX
        eventually(lambda: 'ended_total{cause="unread"}' in api.metrics(), "what nobody reads is ended")
        eventually(lambda: api.metric("ledgerline_api_connections") <= 2, "every one of them was ended")
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX
