"""The proxy does to connections exactly what it is told, at the exact byte; tested with sockets and real Postgres."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ops.embedded.ports import pick_free
from tests.posting_bench import eventually
from tools.chaos.proxy import Proxy

PATIENCE_SECONDS = 30.0
MEGABYTES = 200


class EchoServer:
    """Sends back every byte that it gets. `seen` holds all bytes that it got, over all connections."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.seen = b""
        self.ends: list[str] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while chunk := connection.recv(65_536):
                    self.seen += chunk
                    self.reply(connection, chunk)
                self.ends.append("end")
            except ConnectionError:
                self.ends.append("reset")

    def reply(self, connection: socket.socket, chunk: bytes) -> None:
        connection.sendall(chunk)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._acceptor.join()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with closing(EchoServer()) as echo:
        yield echo


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[Proxy]:
    with Proxy(server.address) as running:
        yield running


@contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_SECONDS) as client:
        yield client


def answered(client: socket.socket, asked: bytes) -> bytes:
    """Send bytes; return the same number of bytes of the answer."""
    client.sendall(asked)
    answer = b""
    while len(answer) < len(asked):
        chunk = client.recv(65_536)
        if not chunk:
            break
        answer += chunk
    return answer


def assert_silent(client: socket.socket, seconds: float = 0.5) -> None:
    client.settimeout(seconds)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(PATIENCE_SECONDS)


def assert_reset(client: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_what_it_passes_is_what_was_sent_and_both_ends_come_through(server: EchoServer, proxy: Proxy) -> None:
    with connected(proxy) as client:
        assert answered(client, b"hello") == b"hello"
        assert (proxy.connections, proxy.bytes_up, proxy.bytes_down) == (1, 5, 5)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the server's end follows the client's"
    eventually(lambda: proxy.connections == 0, "the connection is forgotten", PATIENCE_SECONDS)
    assert server.ends == ["end"]


def test_a_reset_by_either_end_is_one_for_the_other(server: EchoServer, proxy: Proxy) -> None:
    client = socket.create_connection(("127.0.0.1", proxy.port))
    answered(client, b"x")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    eventually(lambda: server.ends == ["reset"], "the server is told", PATIENCE_SECONDS)


def test_a_target_that_is_away_is_a_reset_and_may_come_back(server: EchoServer) -> None:
    with Proxy(("127.0.0.1", pick_free())) as proxy:
        # The reset may come as early as the connect.
        with pytest.raises(ConnectionResetError), connected(proxy) as client:
            client.recv(1)
        proxy.target = server.address
        with connected(proxy) as client:
            assert answered(client, b"back") == b"back"


def test_cut_resets_both_sides_now_and_takes_new_connections(server: EchoServer, proxy: Proxy) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        answered(first, b"1")
        answered(second, b"2")
        proxy.cut()
        assert proxy.connections == 0
        assert_reset(first)
        assert_reset(second)
    eventually(lambda: server.ends == ["reset", "reset"], "the server is told as well", PATIENCE_SECONDS)
    with connected(proxy) as third:
        assert answered(third, b"3") == b"3"


def test_refuse_resets_and_takes_none_until_it_is_healed(proxy: Proxy) -> None:
    with connected(proxy) as client:
        answered(client, b"1")
        proxy.refuse()
        assert_reset(client)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError), connected(proxy):
            pass
        proxy.refuse()  # a second call does no harm
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", proxy.port))
    proxy.pass_through()
    with connected(proxy) as client:
        assert answered(client, b"2") == b"2"


def test_delay_keeps_the_order_and_is_counted_for_each_chunk(proxy: Proxy) -> None:
    with connected(proxy) as client:
        answered(client, b"1")
        proxy.delay(0.4)
        start = time.monotonic()
        assert answered(client, b"there and back") == b"there and back"
        assert 0.8 <= time.monotonic() - start < PATIENCE_SECONDS
        start = time.monotonic()
        for number in range(10):
            client.sendall(b"%d" % number)
            assert_silent(client, 0.02)
        proxy.delay(0)
        client.sendall(b"!")
        received = b""
        while len(received) < 11:
            received += client.recv(100)
        assert received == b"0123456789!", "nothing overtakes what is still on its way"
        assert 0.4 <= time.monotonic() - start < 10 * 0.4, "chunks are late together, not one after the other"


def waiting(proxy: Proxy) -> bool:
    """Return whether a chunk still waits for its delay to end."""
    return any(link.client.waiting for link in proxy._traffic.links)


def test_a_black_hole_opens_while_the_target_is_slow(proxy: Proxy) -> None:
    """The target's kernel buffer is full. When the target reads again, no more bytes may come through."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.target = listener.getsockname()
        with connected(proxy) as client, listener.accept()[0] as target:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(500_000_000))
            proxy.black_hole()
            handed_on = proxy.bytes_up
            target.settimeout(PATIENCE_SECONDS)
            left = handed_on
            while left:
                left -= len(target.recv(left))
            assert_silent(target)
            assert proxy.bytes_up == handed_on


def test_a_black_hole_keeps_all_connections_and_gives_nothing(server: EchoServer, proxy: Proxy) -> None:
    with connected(proxy) as old, connected(proxy) as closed:
        answered(old, b"before")
        proxy.delay(0.3)
        old.sendall(b"on its way")
        eventually(lambda: waiting(proxy), "it is on its way", PATIENCE_SECONDS)
        proxy.black_hole()
        old.sendall(b"lost")
        closed.close()
        with connected(proxy) as new:
            new.sendall(b"lost too")
            assert_silent(old)
            assert_silent(new)
            assert (server.seen, server.ends) == (b"before", [])
            assert proxy.connections == 3
            proxy.pass_through()
            assert_reset(old)
            assert_reset(new)
    with connected(proxy) as client:
        assert answered(client, b"after") == b"after"
    assert server.seen == b"beforeafter"


@pytest.mark.parametrize(
    "parts", [[b"say COMMIT;"], [b"say CO", b"MMIT;"], [b"s", b"ay ", *(b"%c" % c for c in b"COMMIT")]]
)
def test_a_cut_before_a_pattern_keeps_it_from_the_target(server: EchoServer, proxy: Proxy, parts: list[bytes]) -> None:
    fired = proxy.cut_at(b"COMMIT", before=True)
    with connected(proxy) as client:
        assert answered(client, b"COMMI, T") == b"COMMI, T"
        assert not fired.is_set()
        for part in parts[:-1]:
            assert answered(client, part) == part
        client.sendall(parts[-1])
        assert_reset(client)
    assert fired.wait(PATIENCE_SECONDS)
    assert b"COMMIT" not in server.seen
    with connected(proxy) as client:
        assert answered(client, b"COMMIT") == b"COMMIT", "it was for one time"


def test_a_cut_after_a_pattern_keeps_the_answer_from_the_client(server: EchoServer, proxy: Proxy) -> None:
    fired = proxy.cut_at(b"COMMIT", before=False, times=2)
    for number in range(2):
        assert not fired.is_set()
        with connected(proxy) as client:
            client.sendall(b"COMMIT %d" % number)
            assert_reset(client)
    assert fired.wait(PATIENCE_SECONDS)
    assert server.seen == b"COMMIT 0COMMIT 1"


def test_a_cut_after_a_pattern_does_not_wait_for_ever_for_an_answer(
    server: EchoServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "reply", lambda *_: None)
    fired = proxy.cut_at(b"COMMIT", before=False)
    with connected(proxy) as client:
        client.sendall(b"COMMIT")
        assert_reset(client)
    assert fired.wait(PATIENCE_SECONDS)
    assert server.seen == b"COMMIT"


def test_an_action_at_a_pattern_comes_after_the_pattern_and_before_its_answer(server: EchoServer, proxy: Proxy) -> None:
    seen_at_action: list[bytes] = []

    def act() -> None:
        eventually(lambda: server.seen.endswith(b"COMMIT"), "the target has it", PATIENCE_SECONDS)
        seen_at_action.append(server.seen)
        proxy.cut()  # called from the proxy's own thread

    fired = proxy.on_pattern(b"COMMIT", act)
    with connected(proxy) as client:
        answered(client, b"x" * 300_000)
        client.sendall(b"COMMIT")
        assert_reset(client)
    assert fired.wait(PATIENCE_SECONDS)
    assert len(seen_at_action) == 1


def test_an_action_that_fails_is_told_when_the_proxy_closes(server: EchoServer) -> None:
    proxy = Proxy(server.address)
    proxy.start()

    def fail() -> None:
        raise LookupError("no such process")

    fired = proxy.on_pattern(b"COMMIT", fail)
    with connected(proxy) as client:
        assert answered(client, b"COMMIT") == b"COMMIT"
    assert fired.wait(PATIENCE_SECONDS)
    with pytest.raises(LookupError, match="no such process"):
        proxy.close()


def test_healing_disarms_patterns(proxy: Proxy) -> None:
    fired = proxy.cut_at(b"COMMIT", before=True)
    proxy.pass_through()
    with connected(proxy) as client:
        assert answered(client, b"COMMIT") == b"COMMIT"
    assert not fired.is_set()


def test_it_is_no_bottleneck() -> None:
    """The measured rate is 1,200 MB/s; 50 MB/s are needed."""
    listener = socket.create_server(("127.0.0.1", 0))
    received = 0

    def swallow() -> None:
        nonlocal received
        with listener, listener.accept()[0] as connection:
            while chunk := connection.recv(1 << 20):
                received += len(chunk)

    sink = threading.Thread(target=swallow)
    sink.start()
    with Proxy(listener.getsockname()) as proxy:
        start = time.monotonic()
        with connected(proxy) as client:
            for _ in range(MEGABYTES):
                client.sendall(bytes(1_000_000))
        sink.join()
        seconds = time.monotonic() - start
        assert received == MEGABYTES * 1_000_000 == proxy.bytes_up
    assert MEGABYTES / seconds > 50


def test_orders_from_many_threads_under_traffic_leave_nothing_behind(server: EchoServer, proxy: Proxy) -> None:
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            try:
                with connected(proxy) as client:
                    while not stop.is_set():
                        answered(client, b"x" * 10_000)
            except OSError:  # the orders below break the connection
                stop.wait(0.001)

    talkers = [threading.Thread(target=talk) for _ in range(4)]
    for talker in talkers:
        talker.start()
    for _ in range(30):
        for order in (proxy.cut, proxy.refuse, proxy.pass_through, proxy.black_hole, proxy.cut, proxy.pass_through):
            order()
            stop.wait(0.005)
    before = proxy.bytes_down
    eventually(lambda: proxy.bytes_down > before, "it passes again", PATIENCE_SECONDS)
    stop.set()
    for talker in talkers:
        talker.join(PATIENCE_SECONDS)
        assert not talker.is_alive()
    eventually(lambda: proxy.connections == 0, "no connection is left", PATIENCE_SECONDS)


# ---------------------------------------------------------------------------------------------- Postgres


@pytest.fixture
def through_proxy(database: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of Postgres, and the DSN that reaches a database through it."""
    place = conninfo_to_dict(database)
    with Proxy((str(place["host"]), int(str(place["port"])))) as proxy:
        yield proxy, make_conninfo(database, host="127.0.0.1", port=proxy.port)


@pytest.mark.parametrize(("before", "committed"), [(True, 0), (False, 1)])
def test_a_commit_cut_before_is_none_and_one_cut_after_is_one_that_nobody_was_told_of(
    database: str, through_proxy: tuple[Proxy, str], before: bool, committed: int
) -> None:
    proxy, dsn = through_proxy
    with psycopg.connect(database) as direct:
        direct.execute("CREATE TABLE written (number int)")
    connection = psycopg.connect(dsn)
    connection.execute("INSERT INTO written VALUES (1)")
    fired = proxy.cut_at(b"COMMIT\x00", before=before)
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()
    assert fired.wait(PATIENCE_SECONDS)
    with psycopg.connect(database) as direct:
        # Waits for the end of the session that was cut, because its lock is released only then.
        direct.execute("LOCK TABLE written IN ACCESS EXCLUSIVE MODE")
        assert direct.execute("SELECT count(*) FROM written").fetchone() == (committed,)
