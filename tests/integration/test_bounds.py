"""Bounds that hold whichever part is away: on memory, and on the time to an answer, a process's end or a stall's end.

`make bounds MINUTES=5` makes every standstill last that long.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path

import pytest
from pydantic import SecretStr

from api.authentication import TRUSTED_SECONDS_MAX
from db.books import add_tenant
from db.connections import connect
from db.kept_connection import SILENCE_SECONDS_MAX
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.process import wait_until
from ops.embedded.stack import EmbeddedStack, Endpoints
from producers.deploy import Replication, make_topics
from runtime.kafka import Kafka
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import post, running_api, top_up
from tests.bounds_bench import SERVICES, Load, Memory, Services, assert_posted_once, fates, standing_still
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import pair, transfer
from tests.service_process import ServiceProcess

LANES = 2
STANDSTILL_SECONDS = 60 * float(os.environ.get("BOUNDS_MINUTES", "0")) or 12.0
CATCH_UP_SECONDS_MAX = 60 + STANDSTILL_SECONDS
STOP_SECONDS_MAX = 10.0
# How much memory a standstill may add to a process, and how much its second half may add to its first half.
STANDSTILL_MEGABYTES = 60
GROWTH_MEGABYTES = 20
# 10 s: the longest wait for Kafka (delivery timeout), and for Postgres until it counts as away (pool and silence).
# The other 5 s allow for a busy machine.
ANSWER_SECONDS_MAX = 10.0 + 5.0


@pytest.fixture(scope="module")
def parts(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Yield a broker and a database of this module's own, because tests suspend them; the registry is the session's."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    made = EmbeddedStack(tmp_path_factory.mktemp("bounds"), cache=cache, registry=stack.registry_url)
    with made:
        yield made


@pytest.fixture(scope="module")
def ledger(parts: EmbeddedStack, stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostingBench]:
    """Yield an empty ledger on these parts."""
    topics = Topics("bounds.")
    make_topics(Kafka(parts.kafka.bootstrap), topics, LANES, Replication())
    dsn = parts.postgres.dsn
    migrate(dsn)
    with connect(dsn, "ledgerline_operator") as operator:
        add_tenant(operator, "default")
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        kafka_bootstrap=parts.kafka.bootstrap,
        postgres_dsn=SecretStr(dsn),
        registry_url=stack.registry_url,
        topic_prefix=topics.prefix,
        lanes=LANES,
        api_port=0,
        api_requests_per_minute=10_000_000,
    )
    bench = PostingBench(settings, topics)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def all_services(ledger: PostingBench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(ledger, tmp_path_factory.mktemp("logs")) as made:
        yield made


@pytest.fixture
def services(all_services: Services) -> Services:
    """Return all services at work, whatever the previous test did to them."""
    all_services.start()
    return all_services


def let_pass(seconds: float) -> None:
    """Wait, because a standstill has no other condition than its length."""
    threading.Event().wait(seconds)


def warm_up(load: Load, ledger: PostingBench) -> None:
    """Wait until every part has worked."""
    eventually(lambda: len(load.accepted) > 300, "intents are accepted", 60)
    eventually(lambda: fates(ledger, load)["posted"] > 200, "intents are posted", 60)


def stand_still(memory: Memory, standstill: AbstractContextManager[None]) -> float:
    """Suspend a part and check that no process grows too much; return when the standstill began (monotonic clock)."""
    before = time.monotonic()
    let_pass(2)
    with standstill:
        began = time.monotonic()
        let_pass(STANDSTILL_SECONDS)
        ended = time.monotonic()
    middle = (began + ended) / 2
    base, first, second = memory.highest(before, began), memory.highest(began, middle), memory.highest(middle, ended)
    print(f"megabytes before {base}, in the first half {first}, in the second {second}")  # noqa: T201
    for name in SERVICES:
        assert max(first[name], second[name]) <= base[name] + STANDSTILL_MEGABYTES, name
        assert second[name] <= first[name] + GROWTH_MEGABYTES, name
    return began


def catch_up(load: Load, ledger: PostingBench) -> None:
    """Stop the load, and wait until everything that was accepted is posted."""
    load.stop()
    began = time.monotonic()
    eventually(lambda: fates(ledger, load)["posted"] >= len(load.accepted), "all is posted", CATCH_UP_SECONDS_MAX)
    print(f"caught up {time.monotonic() - began:.1f} s after; {fates(ledger, load)}")  # noqa: T201


@pytest.mark.long
def test_while_postgres_stands_still_intents_are_taken_and_all_is_posted_behind(
    parts: EmbeddedStack, ledger: PostingBench, services: Services
) -> None:
    with services.load() as load, Memory(services.pids) as memory:
        warm_up(load, ledger)
        began = stand_still(memory, standing_still(parts.postgres))
        catch_up(load, ledger)
    meanwhile = load.since(began)
    print(f"{len(meanwhile)} answers, slowest {max(answer.seconds for answer in meanwhile):.1f} s")  # noqa: T201
    trusted = [answer for answer in meanwhile if answer.began < began + TRUSTED_SECONDS_MAX - ANSWER_SECONDS_MAX]
    assert {answer.status for answer in trusted} <= {200, 202}
    assert max(answer.seconds for answer in meanwhile) < ANSWER_SECONDS_MAX
    assert sum(answer.seconds < 1 for answer in meanwhile) > 100, "only the first ones find out"
    assert all(process.runs() for process in services.running.values())
    assert_posted_once(ledger, load)


@pytest.mark.long
def test_while_kafka_stands_still_the_answer_is_503_and_the_same_key_is_posted_once(
    parts: EmbeddedStack, ledger: PostingBench, services: Services
) -> None:
    with services.load() as load, Memory(services.pids) as memory:
        warm_up(load, ledger)
        began = stand_still(memory, standing_still(parts.kafka))
        resumed = time.monotonic()
        eventually(lambda: any(answer.status == 202 for answer in load.since(resumed)), "it takes again", 60)
        catch_up(load, ledger)
    meanwhile = load.since(began)
    assert {answer.kind for answer in meanwhile if answer.status == 503} == {"kafka-unavailable"}
    assert {answer.status for answer in meanwhile} <= {200, 202, 503}
    assert max(answer.seconds for answer in meanwhile) < ANSWER_SECONDS_MAX
    assert_posted_once(ledger, load)


def test_a_full_queue_to_kafka_is_503_at_once(ledger: PostingBench, parts: EmbeddedStack, services: Services) -> None:
    """This test runs its own API in this process, and uses the posting worker that all tests share."""
    with (
        running_api(ledger.settings, queue_intents_max=10, delivery_timeout_seconds=5.0) as api,
        api.client(services.key) as client,
    ):
        assert post(client, "queue before", top_up(1, 1)).status_code == 202
        batch = [top_up(1, 1) | {"idempotency_key": f"queue {number}"} for number in range(50)]
        with standing_still(parts.kafka):
            items = client.post("/v1/intents/batch", json=batch).json()["items"]
            kinds = Counter(item["problem"]["type"].rpartition("/")[2] for item in items)
            assert kinds == {"kafka-unavailable": 10, "overloaded": 40}

        def all_posted() -> bool:
            answers = [post(client, item["idempotency_key"], top_up(1, 1)) for item in batch]
            return all(answer.status_code == 200 and answer.json()["status"] == "posted" for answer in answers)

        eventually(all_posted, "the same keys are taken, and posted", 60)
    query = "SELECT count(*) AS rows FROM ledger.journal WHERE outcome = 'posted' AND starts_with(idempotency_key, %s)"
    assert ledger.rows(query, "queue")[0]["rows"] == 51
    ledger.verify()


STANDSTILLS: dict[str, Callable[[EmbeddedStack], AbstractContextManager[None]]] = {
    "under load": lambda _: nullcontext(),
    "Postgres stands still": lambda parts: standing_still(parts.postgres),
    "Kafka stands still": lambda parts: standing_still(parts.kafka),
}


@pytest.mark.parametrize("standstill", STANDSTILLS)
def test_told_to_stop_every_service_ends_in_time_and_nothing_is_done_twice(
    parts: EmbeddedStack, ledger: PostingBench, services: Services, standstill: str
) -> None:
    with services.load() as load:
        warm_up(load, ledger)
        with STANDSTILLS[standstill](parts):
            taken = len(load.answers)
            eventually(lambda: len(load.answers) > taken or standstill.startswith("Kafka"), "load goes on")
            let_pass(0 if standstill == "under load" else 3)  # so that the standstill reaches each process
            ended = services.stop()
        print({name: (code, round(seconds, 1)) for name, (code, seconds) in ended.items()})  # noqa: T201
        assert {name: code for name, (code, _) in ended.items()} == dict.fromkeys(SERVICES, 0)
        assert max(seconds for _, seconds in ended.values()) <= STOP_SECONDS_MAX
        assert {answer.status for answer in load.answers} <= {0, 200, 202, 503}
        unknown = fates(ledger, load)
        services.start()
        # Clients that got no answer, because the process was gone, send the same key to the next process.
        resumed = time.monotonic()
        eventually(lambda: any(answer.status == 202 for answer in load.since(resumed)), "it goes on", 60)
        catch_up(load, ledger)
    assert fates(ledger, load)["posted"] > unknown["posted"]
    # A key is delivered twice only if its client got no answer or 503, and sent the key again.
    repeats = sum(answer.status in (0, 503) for answer in load.answers)
    assert fates(ledger, load)["duplicate"] <= repeats
    assert_posted_once(ledger, load)


@pytest.mark.parametrize(
    ("name", "where", "exit_code"),
    [
        ("posting", "handler", -9),
        ("posting", "loop", -9),
        ("posting", "fetch", -9),
        ("posting", "look", -9),
        ("posting", "group", -9),
        ("posting", "client", -9),
        # No Python code can run here: faulthandler, which is in C, logs the stacks and ends the process.
        ("posting", "interpreter", 1),
        ("relay", "handler", -9),
    ],
)
def test_a_service_that_is_stuck_ends_itself(
    settings: Settings, topics: Topics, tmp_path: Path, name: str, where: str, exit_code: int
) -> None:
    bench = PostingBench(settings, topics)
    bench.take_over()
    bench.send(transfer("k", *pair("external:b", "users:1", 1)))
    if name == "relay":
        assert bench.post() == ["posted"]
    impatient = settings.model_copy(update={"posting_stall_seconds_max": 3.0})
    with ServiceProcess(name, impatient, tmp_path, module=("tests.hanging_service", name, where)) as stuck:
        if where in ("fetch", "look"):
            eventually(lambda: bench.stands(0)[0]["next_offset"] == 1, "the first is posted", 60)
            keys = (f"k{number}" for number in count(2))

            def stays() -> bool:
                """Send one more and return whether it stays unposted; a fetch under way may still bring some."""
                stands = bench.stands(0)[0]["next_offset"]
                bench.send(transfer(next(keys), *pair("external:b", "users:1", 1)))
                return not wait_until(lambda: bench.stands(0)[0]["next_offset"] > stands, timeout_seconds=1.5)

            eventually(stays, "nothing more is fetched", 60)
        assert stuck.ended(60) == exit_code
        if exit_code == 1:
            assert "hold_the_interpreter" in stuck.log()
        else:
            (event,) = stuck.events("stalled")
            assert "wait_for_ever" in str(event["stacks"]) or where in ("fetch", "group", "client")
    bench.verify()
    bench.close()


def test_a_worker_that_postgres_does_not_answer_goes_on_by_itself(
    parts: EmbeddedStack, ledger: PostingBench, services: Services
) -> None:
    """Postgres is silent for longer than the worker waits: the worker drops the connection, and needs no restart."""
    if STANDSTILL_SECONDS <= SILENCE_SECONDS_MAX:
        pytest.skip("a part of `make bounds`, as it takes longer than a minute")
    worker = services.running["posting"]
    with services.load() as load:
        warm_up(load, ledger)
        with standing_still(parts.postgres):
            let_pass(STANDSTILL_SECONDS)
        posted, began = fates(ledger, load)["posted"], time.monotonic()
        eventually(lambda: fates(ledger, load)["posted"] > posted or not worker.runs(), "it posts again", 60)
        print(f"posts again {time.monotonic() - began:.1f} s after")  # noqa: T201
        assert worker.runs()
        assert any("did not answer" in event["cause"] for event in worker.events("waiting"))
        catch_up(load, ledger)
    assert_posted_once(ledger, load)
