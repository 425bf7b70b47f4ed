"""Kafka, Postgres and the registry fail while a worker and a relay run: nothing is lost or doubled."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.ports import pick_free
from ops.embedded.stack import EmbeddedStack, Endpoints
from producers.deploy import Replication, make_topics
from runtime.kafka import Kafka
from runtime.schemas import parse_own_schema, read_body
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.posting_bench import PostingBench, eventually, read_partition
from tests.posting_model import pair, transfer
from tests.service_process import ServiceProcess

LANES = 2
TOTAL = 12_000


@pytest.fixture
def fragile(stack: Endpoints, tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Yield a broker and a database of the test's own, because it kills them; the registry is the session's."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    parts = EmbeddedStack(tmp_path / "stack", cache=cache, registry=stack.registry_url)
    with parts:
        yield parts


@pytest.fixture
def ledger(fragile: EmbeddedStack, stack: Endpoints, tmp_path: Path) -> Iterator[PostingBench]:
    """Yield a ledger on these parts, with all intents already sent."""
    topics = Topics("fragile.")
    make_topics(Kafka(fragile.kafka.bootstrap), topics, LANES, Replication())
    migrate(fragile.postgres.dsn)
    with connect(fragile.postgres.dsn, "ledgerline_operator") as operator:
        add_tenant(operator, "default")
    settings = Settings(
        home=tmp_path,
        kafka_bootstrap=fragile.kafka.bootstrap,
        postgres_dsn=fragile.postgres.dsn,
        registry_url=stack.registry_url,
        topic_prefix=topics.prefix,
        lanes=LANES,
        posting_batch_intents_max=100,
        relay_batch_records_max=100,
        api_port=0,
    )
    bench = PostingBench(settings, topics)
    moves = [transfer(f"k{number}", *pair("external:b", f"users:{number % 50}", 1)) for number in range(TOTAL)]
    for lane in range(LANES):
        bench.send_all(moves[lane::LANES], lane)
    yield bench
    bench.close()


def posted(bench: PostingBench) -> int:
    """Return how many offsets have their fate."""
    found = bench.rows("SELECT coalesce(sum(next_offset), 0)::bigint AS posted FROM ledger.lane")
    return int(found[0]["posted"])


def relayed(bench: PostingBench, lane: int) -> list[int]:
    """Return the sequence numbers of a lane that a read_committed reader gets."""
    schema = parse_own_schema("ledger.journal-value")
    found = read_partition(bench.kafka, bench.topics.journal, lane)
    return [read_body(message.value(), schema)["seq"] for message in found]


def restart_postgres(parts: EmbeddedStack) -> None:
    """Kill Postgres and start it again, as after a crash."""
    parts.postgres.kill()
    parts.postgres.start()


def restart_kafka(parts: EmbeddedStack) -> None:
    """Kill the broker and start it again, as after a crash."""
    parts.kafka.kill()
    parts.kafka.start()


@pytest.mark.long
@pytest.mark.parametrize("restart", [restart_postgres, restart_kafka])
def test_a_part_that_crashes_under_load_is_waited_for(
    fragile: EmbeddedStack, ledger: PostingBench, tmp_path: Path, restart: Callable[[EmbeddedStack], None]
) -> None:
    with (
        ServiceProcess("posting", ledger.settings, tmp_path) as worker,
        ServiceProcess("relay", ledger.settings, tmp_path) as relay,
    ):
        eventually(lambda: posted(ledger) > TOTAL // 20, "posting is under way")
        restart(fragile)
        assert posted(ledger) < TOTAL, "it was to crash under load"
        eventually(lambda: posted(ledger) == TOTAL or not worker.runs(), "all is posted", 90)
        eventually(
            lambda: sum(len(relayed(ledger, lane)) for lane in range(LANES)) == TOTAL or not relay.runs(),
            "all is relayed", 90,
        )  # fmt: skip
        assert (worker.runs(), relay.runs()) == (True, True), "an outage is waited out, not died of"
        assert worker.stop(10) == 0
        assert relay.stop(10) == 0
    assert Counter(fate for lane in range(LANES) for fate in ledger.fates(lane)) == {"posted": TOTAL}
    for lane in range(LANES):
        assert relayed(ledger, lane) == list(range(TOTAL // LANES))
    ledger.verify()


class _Proxy(ThreadingHTTPServer):
    """A proxy to the registry at another address, which a test opens when it needs it."""

    def __init__(self, port: int, target: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    with urlopen(target + self.path, timeout=10) as found:  # noqa: S310
                        status, body = found.status, found.read()
                except HTTPError as error:
                    status, body = error.code, error.read()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        super().__init__(("127.0.0.1", port), Handler)


def test_a_worker_waits_for_the_registry_and_judges_nothing_meanwhile(
    settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    bench = PostingBench(settings, topics)
    bench.send_all([transfer(f"k{number}", *pair("external:b", "users:1", 1)) for number in range(100)])
    port = pick_free()
    away = f"http://127.0.0.1:{port}"
    with ServiceProcess("posting", settings, tmp_path, LEDGERLINE_REGISTRY_URL=away) as worker:
        eventually(lambda: len(worker.events("waiting")) >= 2 or not worker.runs(), "it waits")
        assert "schema registry cannot be reached" in worker.events("waiting")[-1]["cause"]
        assert posted(bench) == 0
        eventually(lambda: worker.metric("ledgerline_agent_lag_records") == 100, "it tells of what waits")
        with _Proxy(port, str(settings.registry_url)) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            eventually(lambda: posted(bench) == 100 or not worker.runs(), "all is posted")
            assert worker.stop(10) == 0
            proxy.shutdown()
    assert Counter(bench.fates()) == {"posted": 100}
    bench.verify()
    bench.close()


def test_told_to_stop_while_it_waits_a_worker_ends_soon(settings: Settings, topics: Topics, tmp_path: Path) -> None:
    bench = PostingBench(settings, topics)
    bench.send(transfer("k", *pair("external:b", "users:1", 1)))
    away = f"http://127.0.0.1:{pick_free()}"
    with ServiceProcess("posting", settings, tmp_path, LEDGERLINE_REGISTRY_URL=away) as worker:
        eventually(lambda: len(worker.events("waiting")) >= 2 or not worker.runs(), "it waits")
        worker.stop(10)
    assert posted(bench) == 0
    bench.close()


def test_a_worker_that_is_stuck_ends_itself_to_be_started_again(
    settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    """Another session locks the lane for longer than a worker may make no progress."""
    bench = PostingBench(settings, topics)
    bench.take_over()
    bench.send(transfer("k", *pair("external:b", "users:1", 1)))
    impatient = settings.model_copy(update={"posting_stall_seconds_max": 2.0})
    with psycopg.connect(bench.dsn) as holder:
        holder.execute("SELECT * FROM ledger.lane FOR UPDATE")
        with ServiceProcess("posting", impatient, tmp_path) as worker:
            assert worker.ended() == -9
            assert worker.events("stalled")
    with ServiceProcess("posting", settings, tmp_path):
        eventually(lambda: posted(bench) == 1, "the next one posts it")
    bench.verify()
    bench.close()
