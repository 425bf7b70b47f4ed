"""The load sends the same intents for the same seed, gives up on no intent, and reports every wrong answer."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from api.intent_bodies import BATCH_ITEMS_MAX, parse_batch, parse_intent
from api.problems import Problem
from db.access import Scope, add_key
from db.connections import connect
from domain.intents import compute_intent_id
from domain.outcomes import QuarantineReason
from domain.topics import Topics
from ops.embedded.ports import pick_free
from runtime.settings import Settings
from streams.posting.source import describe_source
from tests.api_bench import NO_AUTHORITIES
from tests.posting_bench import PostingBench, eventually
from tests.service_process import ServiceProcess
from tools.chaos.load import Load, LoadError
from tools.chaos.load.content import Content, Item
from tools.chaos.oracle import Acknowledged

CLIENTS = 3
SEED = 7
PATIENCE_SECONDS = 60.0


def items(seed: int, client: int, requests: int) -> list[Item]:
    content = Content(seed, client, CLIENTS, "default")
    return [item for _ in range(requests) for item in content.next_request().items]


# ---------------------------------------------------------------------------------------------- what is sent


def test_the_same_seed_asks_for_the_same() -> None:
    first, again = (Content(SEED, 1, CLIENTS, "default") for _ in range(2))
    assert [first.next_request() for _ in range(500)] == [again.next_request() for _ in range(500)]
    assert items(SEED, 1, 50) != items(SEED + 1, 1, 50)
    assert not {item.idempotency_key for item in items(SEED, 1, 50)} & {
        item.idempotency_key for item in items(SEED, 2, 50)
    }


def test_every_kind_is_asked_for_and_only_the_malformed_are_refused_by_the_api() -> None:
    asked = items(SEED, 0, 2_000)
    kinds = Counter(item.kind for item in asked)
    assert set(kinds) == {
        "funding", "deposit", "transfer", "purchase", "payout", "split", "reversal", "duplicate", "conflict",
        "unbalanced", "malformed",
    }  # fmt: skip
    assert min(kinds.values()) > len(asked) // 200 or kinds["funding"] == min(kinds.values())
    for item in asked:
        if item.kind in {"unbalanced", "malformed"}:
            with pytest.raises(Problem) as refusal:
                parse_intent(item.body, "default", item.idempotency_key)
            assert refusal.value.kind.status == 422
        else:
            parse_intent(item.body, "default", item.idempotency_key)
            (in_batch,) = parse_batch(item.line, is_ndjson=True, tenant="default")
            assert not isinstance(in_batch, Problem)


def test_repetitions_are_just_that_and_go_to_another_process() -> None:
    asked = items(SEED, 0, 2_000)
    first: dict[str, Item] = {}
    for item in asked:
        if item.kind == "duplicate":
            assert (item.body, item.turn) == (first[item.idempotency_key].body, first[item.idempotency_key].turn + 1)
        elif item.kind == "conflict":
            assert item.body != first[item.idempotency_key].body
        else:
            assert item.idempotency_key not in first
            first[item.idempotency_key] = item


def test_reversals_name_transfers_that_were_asked_before_and_some_twice() -> None:
    originals: dict[str, Item] = {}
    reversed_times: Counter[str] = Counter()
    parts = 0
    for item in items(SEED, 0, 2_000):
        body = orjson.loads(item.body) if item.kind == "reversal" else {}
        if body:
            assert body["reverses"] in originals
            reversed_times[body["reverses"]] += 1
            parts += "legs" in body
        originals[str(compute_intent_id("default", item.idempotency_key))] = item
    assert max(reversed_times.values()) > 1
    assert 0 < parts < sum(reversed_times.values())


def test_a_batch_is_one_that_the_api_takes() -> None:
    content = Content(SEED, 0, CLIENTS, "default")
    batches = [request for request in (content.next_request() for _ in range(500)) if request.is_batch]
    assert max(len(request.items) for request in batches) <= BATCH_ITEMS_MAX
    assert {request.is_ndjson for request in batches} == {False, True}


# ---------------------------------------------------------------------------------------------- how it is sent


@pytest.fixture
def new_load(settings: Settings, topics: Topics) -> Iterator[Callable[..., Load]]:
    """Make loads for the test's ledger; end them with the test."""
    made: list[Load] = []
    dsn = settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
    with connect(dsn, "ledgerline_operator", autocommit=True) as operator:
        _, key = add_key(operator, "default", "load", list(Scope), 1_000_000)

    def make(*urls: str, **changes: object) -> Load:
        options = {
            "api_urls": lambda: urls,
            "api_key": key,
            "kafka": settings.make_kafka(str(settings.kafka_bootstrap)),
            "topics_prefix": topics.prefix,
            "registry": settings.make_registry(str(settings.registry_url)),
            "seed": SEED,
        }
        made.append(Load(**(options | changes)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for load in made:
        load.finish(0)


class Api:
    """A process of the API. Its address stays the same when it is started again."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.port = pick_free()
        self.url = f"http://127.0.0.1:{self.port}"
        self._start = lambda: ServiceProcess("api", settings, folder, LEDGERLINE_API_PORT=str(self.port))
        self.process = self._start()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz", timeout=5, verify=NO_AUTHORITIES).status_code == 200
            except httpx.TransportError:
                return False

        eventually(lambda: not self.process.runs() or ready(), "the API is ready", PATIENCE_SECONDS)
        assert self.process.runs(), self.process.log()[-2000:]

    def restart(self) -> None:
        self.process.kill()
        self.process = self._start()


@pytest.fixture
def new_api(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], Api]]:
    made: list[Api] = []

    def make() -> Api:
        made.append(Api(settings, tmp_path))
        return made[-1]

    yield make
    for api in made:
        api.process.process.kill()
        api.process.process.wait(10)


def on_topic(settings: Settings, topics: Topics) -> dict[tuple[int, int], bytes | None]:
    """Return every record on the topic of intents, by partition and offset."""
    consumer = Consumer({"bootstrap.servers": str(settings.kafka_bootstrap), "group.id": os.urandom(4).hex()})
    found: dict[tuple[int, int], bytes | None] = {}
    try:
        for lane in range(settings.lanes):
            _, end = consumer.get_watermark_offsets(TopicPartition(topics.intents, lane), 30)
            consumer.assign([TopicPartition(topics.intents, lane, 0)])
            while (lane, end - 1) not in found and end:
                for message in consumer.consume(1_000, timeout=1):
                    found[lane, message.offset()] = message.value()
    finally:
        consumer.close()
    return found


def keys_without_answer(load: Load, seed: int) -> set[str]:
    """Return the keys of good intents without an acknowledgement that were sent before the last acknowledged one."""
    acknowledged = {each.idempotency_key for each in load.acknowledged}
    left: set[str] = set()
    for client in range(CLIENTS):
        # Leave out reversals: they are refused, because nothing is posted here. Leave out repetitions: their key was
        # sent before.
        others = {"unbalanced", "malformed", "reversal", "duplicate", "conflict"}
        keys = [item.idempotency_key for item in items(seed, client, 2_000) if item.kind not in others]
        sent = max(number for number, key in enumerate(keys) if key in acknowledged)
        assert sent < len(keys) - 1, "more was sent than is looked at here"
        left |= set(keys[:sent]) - acknowledged
    return left


def test_every_intent_is_acknowledged_though_the_api_is_killed_in_the_middle(
    settings: Settings, topics: Topics, new_load: Callable[..., Load], new_api: Callable[[], Api]
) -> None:
    apis = [new_api(), new_api()]
    load = new_load(*(api.url for api in apis))
    for api in apis:
        api.wait_until_ready()
    load.start()
    eventually(lambda: load.counts["acknowledged"] > 300, "load is under way", PATIENCE_SECONDS)
    for api in apis:
        api.restart()
    before = load.counts["acknowledged"]
    eventually(lambda: load.counts["acknowledged"] > before + 600, "it goes on", PATIENCE_SECONDS)
    eventually(lambda: load.counts["poison"] > 0, "poison as well", PATIENCE_SECONDS)
    assert load.max_gap_seconds > 0.2, "no API was there for as long as one takes to start"
    load.finish(PATIENCE_SECONDS)

    counts = load.counts
    assert counts["unanswered"] == 0
    assert counts["retried"] > 0
    assert counts["sent"] == counts["acknowledged"] + counts["refused 422"] + counts["refused 409"]
    assert counts["acknowledged"] == counts["answered pending"], "nothing posts here"
    found = on_topic(settings, topics)
    assert len(found) >= counts["acknowledged"] + counts["poison"]
    places = [(each.partition, each.offset) for each in load.acknowledged]
    assert len(set(places)) == len(places) == counts["acknowledged"]
    for each in load.acknowledged:
        value = found[each.partition, each.offset]  # type: ignore[index]
        assert value is not None
        assert each.idempotency_key.encode() in value
        assert each.intent_id.encode() in value
    assert load.last_acknowledged_at is not None
    assert isinstance(load.acknowledged[0], Acknowledged)
    assert keys_without_answer(load, SEED) == set()


def test_pause_holds_it_and_finish_says_when_answers_are_missing(
    new_load: Callable[..., Load], new_api: Callable[[], Api]
) -> None:
    api = new_api()
    load = new_load(api.url)
    api.wait_until_ready()
    load.start()
    eventually(lambda: load.counts["acknowledged"] > 100, "load is under way", PATIENCE_SECONDS)
    load.pause()
    answered = threading.Event()

    def at_rest() -> bool:
        before = load.counts["sent"]
        return not answered.wait(0.5) and load.counts["sent"] == before

    eventually(at_rest, "nothing new is sent", PATIENCE_SECONDS)
    gap = load.max_gap_seconds
    assert not answered.wait(0.2)
    assert load.max_gap_seconds == gap, "a pause is no outage"
    sent = load.counts["sent"]
    load.resume()
    eventually(lambda: load.counts["sent"] > sent, "it goes on", PATIENCE_SECONDS)
    api.process.kill()
    eventually(lambda: load.counts["retried"] > 0, "it has noticed", PATIENCE_SECONDS)
    with pytest.raises(LoadError, match="had no answer"):
        load.finish(1)
    assert load.counts["unanswered"] > 0


def test_an_answer_that_no_fault_explains_is_an_error(
    settings: Settings, new_load: Callable[..., Load], new_api: Callable[[], Api]
) -> None:
    api = new_api()
    api.wait_until_ready()
    load = new_load(api.url, api_key="llk_0000000000000000_nobodys")
    load.start()
    eventually(lambda: load.counts["wrong"] > 0, "a 401", PATIENCE_SECONDS)
    with pytest.raises(LoadError, match="401"):
        load.finish(PATIENCE_SECONDS)
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:  # type: ignore[union-attr]
        assert connection.execute("SELECT count(*) FROM ledger.journal").fetchone() == (0,)
    load._record.wrong.clear()  # the error was reported; the fixture calls finish once more


def test_a_server_without_words_is_asked_again(new_load: Callable[..., Load]) -> None:
    """Uvicorn can answer so while it shuts down. A test cannot make the real one do it at a chosen time."""

    class Speechless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(500, "Internal Server Error")

        def log_message(self, *_: object) -> None:
            """Write no log lines."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Speechless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        load = new_load(f"http://127.0.0.1:{server.server_port}")
        load.start()
        eventually(lambda: load.counts["retried"] > 20, "it asks again", PATIENCE_SECONDS)
        with pytest.raises(LoadError, match="had no answer"):
            load.finish(0.1)
        server.shutdown()
        thread.join()
    assert load.counts["wrong"] == 0
    assert load.counts["unanswered"] == load.counts["sent"] - load.counts["acknowledged"] > 0


def test_posted_intents_are_reversed_replayed_refused_and_run_dry(
    settings: Settings, topics: Topics, new_load: Callable[..., Load], new_api: Callable[[], Api], tmp_path: Path
) -> None:
    api = new_api()
    load = new_load(api.url)
    bench = PostingBench(settings, topics)
    with closing(bench), ServiceProcess("posting", settings, tmp_path):
        api.wait_until_ready()
        load.start()
        eventually(lambda: load.counts["answered posted"] > 20, "outcomes are replayed", PATIENCE_SECONDS)
        eventually(lambda: load.counts["sent"] > 3_000, "there is enough of it", PATIENCE_SECONDS)
        load.finish(PATIENCE_SECONDS)
        bench.take_over()
        ends = dict(describe_source(bench.kafka, topics.intents).end_offsets)
        eventually(
            lambda: {row["lane"]: row["next_offset"] for row in bench.rows("SELECT * FROM ledger.lane")} == ends,
            "all is posted", PATIENCE_SECONDS,
        )  # fmt: skip
        bench.verify()
    fates = Counter(fate for lane in ends for fate in bench.fates(lane))
    assert fates["quarantined"] + sum(fates[reason.value] for reason in QuarantineReason) > 5
    assert min(fates["posted"], fates["insufficient_funds"], fates["unbalanced"]) > 0
    reversals = bench.rows("SELECT outcome, count(*) FROM ledger.journal WHERE type = 'reversal' GROUP BY outcome")
    assert {row["outcome"] for row in reversals} >= {"posted"}
