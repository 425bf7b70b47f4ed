"""The relay on real Kafka and Postgres: read_committed readers get each record of the table exactly once."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from db.relay import RelayStore
from domain.intents import LEGS_MAX
from domain.topics import Topics
from producers import relay_core
from producers.relay_core import RelayFenced
from producers.relay_positions import RelayAhead, RelayPosition
from runtime.kafka import Kafka
from runtime.settings import Settings
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import pair, script, transfer
from tests.relay_bench import RelayBench, deposits, relay_all


@pytest.fixture
def ledger(bench: PostingBench, settings: Settings, topics: Topics) -> Iterator[RelayBench]:
    made = RelayBench(bench, topics)
    yield made
    made.close()


def test_every_kind_of_record_arrives_as_it_stands_in_the_table(ledger: RelayBench) -> None:
    wide = [leg for number in range(LEGS_MAX // 2) for leg in pair("external:bank", f"users:{number}", number + 1)]
    first = script("f external:b>users:1 9 | f external:b>users:1 9 | f!x external:b>users:1 9 | s users:2>users:1 1")
    texts = transfer(
        "key \N{MONEY BAG}", *pair("external:b", "users:1", 3), value_time=-1,
        reference="\x01\u202e\N{MONEY BAG}", metadata={"a": "\n"},
    )  # fmt: skip
    ledger.bench.post_now([*first, transfer("wide", *wide), texts, *script("r ~f users:1>external:b 4")], lane=0)
    ledger.bench.post_now([b"garbage", None, *script("q ~f | n external:b>nobody 1")], lane=1)
    relay = ledger.relay()
    relay.start()
    assert relay_all(relay) == 11
    ledger.check()
    outcomes = [record["outcome"] for lane in (0, 1) for record in ledger.topic_records(lane)]
    assert set(outcomes) == {"posted", "duplicate", "idempotency_conflict", "rejected", "quarantined"}
    assert len(ledger.topic_records(0)[4]["legs"]) == LEGS_MAX
    assert relay.round() == 0


def test_rounds_take_no_more_than_they_may_and_leave_nothing_out(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(25), lane=0)
    ledger.bench.post_now(deposits(12, 25), lane=1)
    relay = ledger.relay(records_max=10)
    relay.start()
    sizes = [relay.round() for _ in range(5)]
    assert sizes == [10, 10, 10, 7, 0]
    ledger.check()


@pytest.mark.parametrize("power", [15, 31])
def test_numbers_cross_the_bounds_of_narrower_integers(ledger: RelayBench, power: int) -> None:
    """psycopg sends a number as the smallest integer type that holds it; Postgres adds two of one type in that type."""
    ledger.bench.post_now(deposits(6))
    first_seq = 2**power - 3
    with psycopg.connect(ledger.bench.dsn) as admin:
        admin.execute("SET session_replication_role = replica")
        for table in ("journal", "entry"):
            admin.execute(f"UPDATE ledger.{table} SET seq = seq + %s", [first_seq])  # noqa: S608
    store = RelayStore(ledger.bench.dsn)
    try:
        records = store.records(0, first_seq, 6)
    finally:
        store.close()
    assert [record["seq"] for record in records] == list(range(first_seq, first_seq + 6))
    assert [len(record["legs"]) for record in records] == [2] * 6


def test_raw_bytes_in_quarantine_bound_a_round_too(ledger: RelayBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 records of a megabyte each would not fit into memory."""
    monkeypatch.setattr("db.relay.RAW_BYTES_MAX", 10_000)
    ledger.bench.post_now([*deposits(3), *[b"x" * 4000] * 7, *deposits(3, 3), b"x" * 50_000, *deposits(1, 6)])
    relay = ledger.relay()
    relay.start()
    sizes = [relay.round() for _ in range(6)]
    assert sum(sizes) == 15
    assert max(sizes) < 9
    assert relay.round() == 0
    ledger.check()


def test_a_relay_that_starts_later_goes_on_where_the_last_one_was(ledger: RelayBench) -> None:
    for turn in range(3):
        ledger.bench.post_now(deposits(5, 5 * turn), lane=turn % 2)
        relay = ledger.relay()
        relay.start()
        assert relay_all(relay) == 5
        relay.close()
    ledger.check()


def test_instances_share_the_lanes(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(5), lane=0)
    ledger.bench.post_now(deposits(7, 5), lane=1)
    even, odd = ledger.relay(instance=0, instances=2), ledger.relay(instance=1, instances=2)
    even.start()
    odd.start()
    assert (relay_all(even), relay_all(odd)) == (5, 7)
    ledger.check()


def test_a_second_relay_locks_the_first_out(ledger: RelayBench) -> None:
    first, second = ledger.relay(), ledger.relay()
    ledger.bench.post_now(deposits(5))
    first.start()
    assert first.round() == 5
    ledger.bench.post_now(deposits(5, 5))
    second.start()
    with pytest.raises(KafkaException):
        first.round()
    assert second.round() == 5
    ledger.check()


@pytest.mark.parametrize("count", [5, 3000])
def test_a_running_relay_that_is_locked_out_ends_with_one_sentence(ledger: RelayBench, count: int) -> None:
    """With few records the commit meets the fence; with many, the producer meets it while it takes them."""
    ledger.bench.post_now(deposits(5))
    first, second = ledger.relay(), ledger.relay()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            first.run(threading.Event())
        except RelayFenced as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: ledger.relayed() == 5, "the first relay is at work")
    second.start()
    ledger.bench.post_now(deposits(count, 5))
    thread.join(30)
    assert not thread.is_alive()
    assert "Another relay took over" in str(ended[0])
    assert relay_all(second) == count
    ledger.check()


def test_the_position_is_read_only_after_earlier_relays_are_locked_out(
    ledger: RelayBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the other order, a zombie could commit in between, and its records would be relayed twice."""
    ledger.bench.post_now(deposits(5))
    zombie, successor = ledger.relay(), ledger.relay()
    zombie.start()
    read = successor._read_positions
    tried = []

    def while_reading(kafka: Kafka, topic: str) -> dict[int, RelayPosition]:
        with pytest.raises(KafkaException):
            zombie.round()
        tried.append(topic)
        return read(kafka, topic)

    monkeypatch.setattr(successor, "_read_positions", while_reading)
    successor.start()
    assert tried == [ledger.topics.relay]
    assert successor.round() == 5
    ledger.check()


def test_what_a_relay_left_open_is_not_seen_and_comes_once_from_the_next(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(5))
    dying, successor = ledger.relay(), ledger.relay()
    dying.start()
    producer = dying._producer
    assert producer is not None
    producer.begin_transaction()
    for record in dying._make_outgoing({}, {0: dying._store.records(0, 0, 5)}, None):
        dying._produce(record)
    assert producer.flush(10) == 0
    assert ledger.relayed() == 0
    successor.start()
    assert relay_all(successor) == 5
    ledger.check()


def test_a_relay_ahead_of_its_ledger_refuses(ledger: RelayBench) -> None:
    """After a restore of Postgres from an old backup, the next rows would not follow the records that were relayed."""
    ledger.bench.post_now(deposits(5))
    relay = ledger.relay()
    relay.start()
    assert relay_all(relay) == 5
    relay.close()
    with psycopg.connect(ledger.bench.dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE ledger.lane SET next_seq = 3, next_offset = 3")
    other = ledger.relay()
    other.start()
    with pytest.raises(RelayAhead, match="lane 0 was relayed up to 5, but the ledger has it up to 3"):
        other.round()


def test_a_relay_of_another_history_refuses(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(5))
    relay = ledger.relay()
    relay.start()
    relay_all(relay)
    relay.close()
    with psycopg.connect(ledger.bench.dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE ledger.journal SET hash = sha256('x') WHERE seq = 4")
        connection.execute("UPDATE ledger.lane SET head = sha256('x')")
    ledger.bench.post_now(deposits(1, 5))
    other = ledger.relay()
    other.start()
    with pytest.raises(RelayAhead, match="lane 0 was relayed up to 5 with another hash"):
        other.round()


def test_it_wakes_at_once(ledger: RelayBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees the record soon after the commit, although the relay by itself looks only every 5 s."""
    assert relay_core.WAIT_SECONDS_MAX == 5.0
    relay = ledger.relay()
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    reader = Consumer(
        {
            **ledger.bench.kafka.make_client_options(),
            "group.id": "reader",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        reader.assign([TopicPartition(ledger.topics.journal, 0, 0)])
        eventually(lambda: relay.missing() is None, "the relay is at work")
        latencies = []
        for number in range(10):
            ledger.bench.post_now(deposits(1, number))
            committed_at = time.monotonic()
            eventually(lambda: reader.poll(0.5), "the record is seen", 5)
            latencies.append(time.monotonic() - committed_at)
        assert sorted(latencies)[5] < 0.5
        assert max(latencies[1:]) < 1.0
    finally:
        stop.set()
        reader.close()
        thread.join(20)
    assert not thread.is_alive()
    ledger.check()


def test_a_backlog_of_wake_up_calls_is_one_look(ledger: RelayBench) -> None:
    store = RelayStore(ledger.bench.dsn)
    store.lanes(0, 1)
    for number in range(30):
        ledger.bench.post_now(deposits(1, number))
        store.lanes(0, 1)
    assert store.wait(5.0)
    started_at = time.monotonic()
    assert not store.wait(0.3), "all of them were taken at once"
    assert time.monotonic() - started_at > 0.2
    store.close()


def test_a_position_behind_another_instances_open_transaction_is_waited_for(ledger: RelayBench) -> None:
    """The topic's last stable offset is before the position: a relay that stopped there would repeat everything."""
    relay = ledger.relay(instance=0, instances=2)
    relay.start()
    other = Producer({**ledger.bench.kafka.make_client_options(), "transactional.id": f"{ledger.topics.prefix}other"})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(ledger.topics.relay, b"unfinished", b"1", partition=0)
    assert other.flush(10) == 0
    ledger.bench.post_now(deposits(5))
    assert relay_all(relay) == 5

    successor = ledger.relay(instance=0, instances=2)
    starting = threading.Thread(target=successor.start)
    starting.start()
    starting.join(3)
    waits = starting.is_alive()
    other.abort_transaction(30)
    starting.join(30)
    assert waits
    assert not starting.is_alive()
    assert successor.round() == 0
    ledger.check()


def test_a_lane_with_a_long_backlog_does_not_keep_others_waiting(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(50), lane=0)
    ledger.bench.post_now(deposits(5, 50), lane=1)
    relay = ledger.relay(records_max=10)
    relay.start()
    assert [relay.round(), relay.round()] == [10, 10]
    assert ledger.relayed(1) == 5
    assert relay_all(relay) == 35
    ledger.check()
