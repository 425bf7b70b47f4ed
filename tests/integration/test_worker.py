"""The posting worker as a real process: each intent is posted exactly once, whatever ends it or takes its lanes."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from domain.intents import Intent
from domain.topics import Topics
from producers.deploy import Replication, make_topics
from runtime.settings import Settings
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import pair, script, transfer
from tests.service_process import ServiceProcess

STOP_SECONDS_MAX = 10.0
ASSIGNED = "partitions assigned"

Start = Callable[..., ServiceProcess]


@pytest.fixture
def slow_batches(settings: Settings) -> Settings:
    """Return settings with small batches, so that a run takes long enough to be interrupted."""
    return settings.model_copy(update={"posting_batch_intents_max": 100})


def moves(count: int, first: int = 0) -> list[Intent]:
    """Return deposits of one cent each."""
    return [
        transfer(f"k{number}", *pair("external:b", f"users:{number % 50}", 1))
        for number in range(first, first + count)
    ]  # fmt: skip


def send(bench: PostingBench, count: int) -> None:
    """Send the moves, half of them to each lane."""
    asked = moves(count)
    bench.send_all(asked[::2], lane=0)
    bench.send_all(asked[1::2], lane=1)


def posted(bench: PostingBench) -> int:
    """Return how many offsets have their fate."""
    found = bench.rows("SELECT coalesce(sum(next_offset), 0)::bigint AS posted FROM ledger.lane")
    return int(found[0]["posted"])


def wait_for(bench: PostingBench, count: int, *workers: ServiceProcess, seconds: float = 60.0) -> None:
    """Wait until so many offsets have their fate; raise AssertionError if a worker ends meanwhile."""

    def reached() -> bool:
        for worker in workers:
            assert worker.runs(), worker.log()[-3000:]
        return posted(bench) >= count

    eventually(reached, f"{count} intents have their fate", seconds)


def check(bench: PostingBench, count: int) -> None:
    """Check that so many intents were posted, each once."""
    assert posted(bench) == count
    assert Counter(bench.fates(0) + bench.fates(1)) == {"posted": count}
    assert bench.balance("external:b") == count
    bench.verify()


def lanes_of(worker: ServiceProcess) -> int:
    """Return how many lanes a worker reports."""
    return int(worker.metric("ledgerline_agent_partitions"))


def lanes_by_name(settings: Settings) -> dict[str, set[int]]:
    """Return the lanes of each named member of the group, as the broker reports them."""
    group = Topics(settings.topic_prefix).group("posting")
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    description = admin.describe_consumer_groups([group])[group].result(timeout=30)
    return {
        member.group_instance_id: {partition.partition for partition in member.assignment.topic_partitions}
        for member in description.members
    }


def told_lanes(worker: ServiceProcess) -> list[str]:
    """Return the lanes whose lag a worker reports."""
    return re.findall(r'^ledgerline_agent_lag_seconds\{.*partition="(\d+)"', worker.metrics(), re.MULTILINE)


def test_a_worker_posts_what_was_sent_before_and_after_its_start_and_stops(
    bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    send(bench, 500)
    with ServiceProcess("posting", settings, tmp_path) as worker:
        worker.wait_until_ready()
        wait_for(bench, 500, worker)
        bench.send_all(script("late external:b>users:1 1 | late external:b>users:1 1"), lane=1)
        bench.send_bytes(b"garbage", lane=0)
        bench.send_transaction(moves(2, first=900), commit=False)
        wait_for(bench, 506, worker)
        eventually(lambda: worker.metric("ledgerline_posting_outcomes_total") == 506, "its metrics count all")
        eventually(lambda: lanes_of(worker) == 2, "it tells of its lanes")
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert Counter(bench.fates(0) + bench.fates(1)) == {"posted": 501, "duplicate": 1, "bad_magic": 1, "no_record": 3}
    bench.verify()


def test_killed_in_the_middle_and_started_again_it_posts_each_once(
    bench: PostingBench, slow_batches: Settings, tmp_path: Path
) -> None:
    total = 8000
    send(bench, total)
    with ServiceProcess("posting", slow_batches, tmp_path) as worker:
        wait_for(bench, total // 4, worker)
        worker.kill()
    assert posted(bench) < total, "it was to be killed in the middle"
    bench.verify()
    with ServiceProcess("posting", slow_batches, tmp_path) as worker:
        wait_for(bench, total, worker)
        assert worker.stop(STOP_SECONDS_MAX) == 0
    check(bench, total)


def test_two_workers_share_the_lanes_and_one_takes_over_from_the_other(
    bench: PostingBench, slow_batches: Settings, tmp_path: Path
) -> None:
    with ServiceProcess("posting", slow_batches, tmp_path) as first:
        first.wait_until_ready()
        with ServiceProcess("posting", slow_batches, tmp_path) as second:
            second.wait_until_ready()
            send(bench, 6000)
            eventually(
                lambda: (
                    first.metric("ledgerline_agent_partitions") == second.metric("ledgerline_agent_partitions") == 1
                ),
                "each has a lane",
            )
            eventually(lambda: sorted(told_lanes(first) + told_lanes(second)) == ["0", "1"], "each tells of its own")
            wait_for(bench, 1000, first, second)
            assert first.stop(STOP_SECONDS_MAX) == 0
            wait_for(bench, 6000, second)
            eventually(lambda: lanes_of(second) == 2, "the second has both")
            eventually(lambda: told_lanes(second) == ["0", "1"], "and tells of both")
            assert second.stop(STOP_SECONDS_MAX) == 0
    check(bench, 6000)


def test_a_worker_that_dies_is_followed_by_the_one_that_lives(
    bench: PostingBench, slow_batches: Settings, tmp_path: Path
) -> None:
    with ServiceProcess("posting", slow_batches, tmp_path) as first:
        first.wait_until_ready()
        with ServiceProcess("posting", slow_batches, tmp_path) as second:
            second.wait_until_ready()
            send(bench, 4000)
            wait_for(bench, 500, first, second)
            first.kill()
            wait_for(bench, 4000, second)
    check(bench, 4000)


def test_told_to_stop_under_load_it_ends_soon_and_leaves_nothing_half_done(
    bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    send(bench, 30_000)
    with ServiceProcess("posting", settings, tmp_path) as worker:
        wait_for(bench, 1000, worker)
        assert worker.stop(STOP_SECONDS_MAX) == 0
        assert "Traceback" not in worker.log()
    assert posted(bench) < 30_000, "it was to be stopped under load"
    bench.verify()


def test_connections_that_postgres_ends_in_mid_flight_cost_nothing(
    bench: PostingBench, slow_batches: Settings, tmp_path: Path
) -> None:
    total = 6000
    send(bench, total)
    with ServiceProcess("posting", slow_batches, tmp_path) as worker:
        for share in (0.1, 0.3, 0.5, 0.7):
            wait_for(bench, int(total * share), worker)
            ended = bench.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE starts_with(application_name, 'ledgerline_posting') AND datname = current_database()"
            )
            assert ended
        wait_for(bench, total, worker)
        assert worker.events("waiting")
        assert worker.stop(STOP_SECONDS_MAX) == 0
    check(bench, total)


def remake(bench: PostingBench, topics: Topics) -> None:
    """Delete the topic of intents and make it again."""
    admin = AdminClient(bench.kafka.make_client_options())
    for deletion in admin.delete_topics([topics.intents], operation_timeout=10).values():
        deletion.result(10)
    eventually(lambda: topics.intents not in admin.list_topics(timeout=10).topics, "the topic is gone")
    make_topics(bench.kafka, topics, 2, Replication())


def test_on_a_topic_made_anew_it_refuses_to_start_in_one_sentence(
    bench: PostingBench, settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    bench.send_all(moves(10))
    assert bench.post() == ["posted"] * 10
    remake(bench, topics)
    send(bench, 100)
    with ServiceProcess("posting", settings, tmp_path) as worker:
        assert worker.ended() == 1
        sentence = worker.log().strip().splitlines()[-1]
        assert f"was posted from {topics.intents} (" in sentence
        assert "but the topic there now is" in sentence
    check(bench, 10)


def test_a_topic_made_anew_under_a_running_worker_is_never_posted_from(
    bench: PostingBench, settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    """The new topic's offsets start at 0 and pass those of the old topic; none may be taken for an old one."""
    with ServiceProcess("posting", settings, tmp_path) as worker:
        worker.wait_until_ready()
        bench.send_all(moves(50))
        wait_for(bench, 50, worker)
        remake(bench, topics)
        others = [asked._replace(idempotency_key=f"new{uuid.uuid4()}") for asked in moves(500)]
        bench.send_all(others)
        assert worker.ended(60) != 0
        sentence = worker.log().strip().splitlines()[-1]
        assert json.loads(sentence)["event"] == "ended"
        assert f"was posted from {topics.intents} (" in sentence or "was deleted and made again" in sentence
    check(bench, 50)


def test_a_named_worker_that_comes_back_has_its_lanes_again_and_nobody_else_notices(
    bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    """Static membership: the group's generation does not change, and the other worker keeps its lane."""

    def worker(name: str) -> ServiceProcess:
        return ServiceProcess("posting", settings.model_copy(update={"instance_id": name}), tmp_path)

    with worker("posting-0") as first, worker("posting-1") as other:
        eventually(lambda: lanes_of(first) == lanes_of(other) == 1, "each has a lane", 60.0)
        send(bench, 200)
        wait_for(bench, 200, first, other)
        before, assignments = lanes_by_name(settings), len(other.events(ASSIGNED))
        assert assignments > 0
        assert before.keys() == {"posting-0", "posting-1"}
        assert first.stop(STOP_SECONDS_MAX) == 0
        with worker("posting-0") as again:
            eventually(lambda: lanes_of(again) == 1, "it has its lane again", 60.0)
            assert lanes_by_name(settings) == before
            send(bench, 200)
            wait_for(bench, 400, again, other)
            assert lanes_of(other) == 1
            assert len(other.events(ASSIGNED)) == assignments, "it was assigned again"
