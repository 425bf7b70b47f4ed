"""Each bound on a connection: at which value it acts, what the client gets, and that other clients are still served."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest
import uvicorn

from api import connections
from api.addresses import NO_PROXIES, TrustedProxies, parse_trusted_proxies
from api.connection_bounds import ConnectionBounds
from api.connections import Connections
from api.metrics import Metrics

WIDE: Final = ConnectionBounds(
    head_bytes_max=4_096,
    headers_max=20,
    pipelined_max=4,
    connections_max=50,
    address_connections_max=50,
    unread_bytes_max=1_000_000_000,
    head_seconds_max=60,
    body_seconds_max=60,
    unread_seconds_max=60,
    idle_seconds_max=60,
)
SHORT_SECONDS: Final = 0.3
LARGE_BYTES: Final = 20_000_000
PART_BYTES: Final = 65_536
SENT_BYTES_MAX: Final = 20_000_000
GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_LARGE: Final = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
GET_HELD: Final = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
GET_PARTS: Final = b"GET /parts HTTP/1.1\r\nHost: a\r\n\r\n"
GET_STREAM: Final = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED: Final = b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Application:
    """An ASGI application that answers at once, with other behaviour at five paths.

    /read answers after the whole request body, and /held after `release` is set. /large answers with a large body, and
    /parts sends that body in parts. /stream sends beats until its client leaves.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.body_bytes = 0
        self.clients_left = 0
        self.found_whole: list[bool] = []
        self.failures: list[Exception] = []
        self.release = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except RuntimeError as error:  # uvloop raises this for a closed socket
            self.failures.append(error)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/held":
            await self.release.wait()
        if scope["path"] == "/stream":
            await self._stream(receive, send)
            return
        while scope["path"] == "/read":
            self.found_whole.append(scope["extensions"][connections.BODY_IS_WHOLE]())
            message = await receive()
            self.body_bytes += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"x" * (LARGE_BYTES if scope["path"] in ("/large", "/parts") else 2)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/parts":
            for at in range(0, LARGE_BYTES, PART_BYTES):
                more = at + PART_BYTES < LARGE_BYTES
                await send({"type": "http.response.body", "body": body[at : at + PART_BYTES], "more_body": more})
        else:
            await send({"type": "http.response.body", "body": body})
        self.answered += 1

    async def _stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        left = asyncio.ensure_future(_until_the_client_leaves(receive))
        while not left.done():
            await send({"type": "http.response.body", "body": b"beat", "more_body": True})
            await asyncio.wait({left}, timeout=0.01)
        self.clients_left += 1


async def _until_the_client_leaves(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Served:
    """A running server with bounds on its connections."""

    def __init__(self, port: int, application: Application, all_connections: Connections, metrics: Metrics) -> None:
        self.port = port
        self.application = application
        self.connections = all_connections
        self._metrics = metrics

    def connect(self, receive_buffer_bytes: int = 0) -> socket.socket:
        client = socket.socket()
        if receive_buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, request: bytes) -> bytes:
        """Send a request and return everything that the server sends until it ends the connection."""
        with self.connect() as client:
            client.sendall(request)
            return read_to_end(client)

    def ended(self, cause: str) -> float:
        value = self._metrics.registry.get_sample_value("ledgerline_api_connections_ended_total", {"cause": cause})
        return value or 0.0

    def open_now(self) -> float:
        return self._metrics.registry.get_sample_value("ledgerline_api_connections") or 0.0

    def await_that(self, condition: Any) -> None:
        pause = threading.Event()
        ends = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < ends
            pause.wait(0.01)


def read_to_end(client: socket.socket) -> bytes:
    found = b""
    try:
        while chunk := client.recv(65_536):
            found += chunk
    except ConnectionError:
        pass
    return found


@contextmanager
def serving(trusted: TrustedProxies = NO_PROXIES, **changes: Any) -> Iterator[Served]:
    metrics = Metrics()
    application = Application()
    all_connections = Connections(WIDE._replace(**changes), trusted, metrics)
    config = uvicorn.Config(
        application, http=all_connections.protocol(), loop="uvloop", ws="none", lifespan="off", log_config=None,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(listener.getsockname()[1], application, all_connections, metrics)
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _many_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.02)


def test_a_head_within_the_bounds_is_answered() -> None:
    headers = b"".join(b"h%d: %s\r\n" % (number, b"x" * 180) for number in range(20))
    with serving(idle_seconds_max=SHORT_SECONDS) as served:
        assert served.ask(b"GET / HTTP/1.1\r\n" + headers + b"\r\n").startswith(b"HTTP/1.1 200 ")
        assert served.ended("head_too_large") == 0


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(21)) + b"\r\n",
        b"GET / HTTP/1.1\r\nh: " + b"x" * 4_096 + b"\r\n\r\n",
        b"GET /" + b"x" * 4_096 + b" HTTP/1.1\r\n\r\n",
        GET + b"GET / HTTP/1.1\r\nh: " + b"x" * 4_096 + b"\r\n\r\n",
    ],
    ids=["count", "value", "target", "second"],
)
def test_a_head_that_is_too_large_is_told_so(request_: bytes) -> None:
    with serving() as served, served.connect() as client:
        if request_.startswith(GET):
            client.sendall(GET)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(request_.removeprefix(GET))
        answer = read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 431 ")
        for part in (b"application/problem+json", b"problems/head-too-large", b"X-Correlation-Id: ", b"date: "):
            assert part in answer
        assert served.ended("head_too_large") == 1


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: ", b"x" * 65_536),
        (b"GET / HTTP/1.1\r\n", b"h: x\r\n" * 10_000),
        (b"GET / HTTP/1.1\r\n", b"x" * 65_536),
        (b"GET /", b"x" * 65_536),
        (CHUNKED + b"0\r\nx: ", b"x" * 65_536),
        (CHUNKED + b"1;", b"x" * 65_536),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"x: x\r\n" * 10_000),
    ],
    ids=["value", "count", "name", "target", "trailer", "extension", "trailers"],
)
def test_what_never_ends_is_refused(begin: bytes, more: bytes) -> None:
    with serving() as served, served.connect() as client:
        client.sendall(begin)
        with pytest.raises(ConnectionError):
            client.sendall(more * (SENT_BYTES_MAX // len(more)))
        assert served.ended("head_too_large") == 1


def test_a_body_in_many_small_chunks_is_taken() -> None:
    with serving(idle_seconds_max=SHORT_SECONDS) as served:
        answer = served.ask(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert served.application.body_bytes == 20_000


def test_the_application_is_told_if_a_body_has_come() -> None:
    post = b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    with serving() as served, served.connect() as client:
        client.sendall(post + b"body")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert served.application.found_whole == [True]
        client.sendall(post + b"bo")
        served.await_that(lambda: served.application.body_bytes == 6)
        client.sendall(b"dy")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert served.application.found_whole[1] is False


def test_so_many_requests_may_be_sent_at_once_and_then_the_connection_ends() -> None:
    with serving(idle_seconds_max=SHORT_SECONDS) as served:
        assert served.ask(GET * 5).count(b"HTTP/1.1 200 ") == 5
        assert served.ended("pipeline") == 0
        assert served.ask(GET * 5_000).count(b"HTTP/1.1 200 ") == 5
        assert served.ended("pipeline") == 1
        assert served.application.answered == 10


def test_what_is_no_http_is_told_so() -> None:
    with serving() as served:
        answer = served.ask(b"\x16\x03\x01 hello\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"problems/bad-request" in answer
        assert served.ended("no_http") == 1


@pytest.mark.parametrize(
    ("sent", "said", "cause"),
    [
        (b"", [], "idle"),
        (b"GET / HTTP/1.1\r\nHost", [b"408"], "head_too_slow"),
        (GET, [b"200"], "idle"),
        (GET + b"GET", [b"200", b"408"], "head_too_slow"),
        (b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nx", [b"200"], "body_too_slow"),
    ],
    ids=["nothing", "half a head", "one request", "one and a half", "a body that nobody waits for"],
)
def test_a_client_that_sends_nothing_or_half_is_ended(sent: bytes, said: list[bytes], cause: str) -> None:
    seconds = {name: SHORT_SECONDS for name in WIDE._fields if name.endswith("seconds_max")}
    with serving(**seconds) as served:
        answer = served.ask(sent)
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == said
        assert served.ended(cause) == 1
        served.await_that(lambda: served.open_now() == 0)


def test_who_waits_for_an_answer_is_not_idle() -> None:
    seconds = {name: SHORT_SECONDS / 2 for name in WIDE._fields if name.endswith("seconds_max")}
    with serving(**seconds) as served, served.connect() as client:
        client.sendall(GET_HELD + b"GET / HT")
        client.settimeout(2 * SHORT_SECONDS)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        served.application.release.set()
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        # The time for the second head starts now, because the server did not read from this client during the answer.
        client.sendall(b"TP/1.1\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads_ends_the_connection_and_is_let_go() -> None:
    with serving(unread_seconds_max=SHORT_SECONDS) as served, served.connect(4_096) as client:
        client.sendall(GET_LARGE)
        served.await_that(lambda: served.ended("unread") == 1)
        served.await_that(lambda: served.open_now() == 0)
        assert len(read_to_end(client)) < LARGE_BYTES


def test_an_answer_that_is_read_slowly_comes_whole() -> None:
    with serving(unread_seconds_max=SHORT_SECONDS) as served, served.connect(65_536) as client:
        client.sendall(GET_LARGE + GET)
        pause = threading.Event()
        read = 0
        ends = time.monotonic() + 4 * SHORT_SECONDS
        while time.monotonic() < ends:  # this is longer than the longest time for which an answer may stay unread
            read += len(client.recv(100_000))
            assert served.ended("unread") == 0
            pause.wait(0.02)
        assert read < LARGE_BYTES / 2
        while read < LARGE_BYTES:
            received = client.recv(1_000_000)
            assert received, "the connection ended before the answer did"
            read += len(received)
        assert served.ended("unread") == 0


@pytest.mark.parametrize("unread_bytes_max", [1_000_000_000, 10_000])
def test_a_client_that_leaves_in_the_midst_of_several_answers_is_no_failure(unread_bytes_max: int) -> None:
    """uvicorn tells only the latest request of the disconnect, so an earlier request wrote to a closed socket."""
    with serving(unread_bytes_max=unread_bytes_max) as served:
        with served.connect(4_096) as client:
            client.sendall(GET_PARTS * 3)
            assert client.recv(1)
        served.await_that(lambda: served.application.answered == 1 or served.application.failures)
        assert served.application.failures == []
        served.await_that(lambda: served.open_now() == 0)


def test_a_stream_with_a_request_behind_it_ends_with_its_client() -> None:
    with serving() as served:
        with served.connect() as client:
            client.sendall(GET_STREAM + GET)
            served.await_that(lambda: served.open_now() == 1)
        served.await_that(lambda: served.application.clients_left == 1)


def test_all_unread_answers_together_are_bounded() -> None:
    with serving(unread_bytes_max=2 * LARGE_BYTES) as served, ExitStack() as held:
        first = held.enter_context(served.connect(4_096))
        first.sendall(GET_LARGE)
        for number in range(4):
            if number:
                held.enter_context(served.connect(4_096)).sendall(GET_LARGE)
            served.await_that(lambda number=number: served.application.answered == number + 1)
        served.await_that(lambda: served.ended("unread") == 2)
        assert len(read_to_end(first)) < LARGE_BYTES, "the one that has waited longest goes first"
        assert served.open_now() == 2


def test_one_address_has_so_many_connections() -> None:
    with serving(address_connections_max=3) as served, ExitStack() as held:
        for _ in range(3):
            held.enter_context(served.connect())
        served.await_that(lambda: served.open_now() == 3)
        answer = served.ask(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"problems/overloaded" in answer
        assert b"Retry-After: 1" in answer
        assert served.ended("address") == 1
    with serving(parse_trusted_proxies("127.0.0.0/8"), address_connections_max=3) as served, ExitStack() as held:
        for _ in range(10):
            held.enter_context(served.connect())
        served.await_that(lambda: served.open_now() == 10)


def test_a_new_connection_takes_the_place_of_one_that_waits_and_never_of_one_at_work() -> None:
    with serving(connections_max=3) as served, ExitStack() as held:
        at_work, waiting, half = (held.enter_context(served.connect()) for _ in range(3))
        at_work.sendall(GET_HELD)
        half.sendall(b"GET / HT")
        served.await_that(lambda: served.open_now() == 3)
        new = held.enter_context(served.connect())
        new.sendall(GET_HELD)
        assert read_to_end(waiting) == b""
        assert read_to_end(half) == b""
        assert served.ended("connections") == 2
        held.enter_context(served.connect()).sendall(GET_HELD)
        served.await_that(lambda: served.open_now() == 3)
        served.await_that(lambda: all(not one.waits_for_head for one in served.connections._open))
        answer = served.ask(GET)
        assert answer.startswith(b"HTTP/1.1 503 ")
        served.application.release.set()
        for client in (at_work, new):
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
