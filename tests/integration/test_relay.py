"""The relay on the real parts: the topic is the table, record by record, each once for read_committed readers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from db.relay import RelayStore
from domain.intents import LEGS_MAX
from domain.settings import Settings
from domain.topics import Topics
from producers import relay as relay_module
from producers.encoding import parsed_schema, read_body
from producers.relay import Checkpoint, Relay, RelayAhead, RelayEncoders, RelayFenced, RelayOptions, read_checkpoints
from tests.posting_bench import PostingBench, eventually, hash_of, read_partition
from tests.posting_model import pair, script, transfer
from tests.service_process import ServiceProcess

RECORD_MEMBERS = (
    "lane", "seq", "previous_hash", "hash", "outcome", "reason", "detail", "tenant", "idempotency_key", "fingerprint",
    "type", "reference", "source_topic", "source_offset", "value_time", "booked_time",
)  # fmt: skip


class RelayBench:
    """A ledger with relays, made as the service makes them."""

    def __init__(self, bench: PostingBench, settings: Settings, topics: Topics) -> None:
        self.bench = bench
        self.topics = topics
        self._encoders = RelayEncoders.registered(str(settings.registry_url))
        self._made: list[Relay] = []
        self._watcher = Consumer({"bootstrap.servers": bench.bootstrap, "group.id": "watcher"})

    def relay(self, **options: Any) -> Relay:
        """Another relay, not yet started."""
        made = Relay(
            RelayStore(self.bench.dsn), self._encoders, RelayOptions(self.bench.bootstrap, self.topics, **options)
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        """Let go of all of them."""
        for made in self._made:
            made.close()
        self._watcher.close()

    def topic_records(self, lane: int = 0) -> list[dict[str, Any]]:
        """The records of a lane, as a read_committed reader gets them."""
        schema = parsed_schema("ledger.journal-value")
        found = read_partition(self.bench.bootstrap, self.topics.journal, lane)
        records = [read_body(message.value(), schema) for message in found]
        for message, record in zip(found, records, strict=True):
            assert message.key() == (record["intent_id"].encode() if record["intent_id"] else None)
        return records

    def relayed(self, lane: int = 0) -> int:
        """How many records of the lane a read_committed reader gets."""
        return len(read_partition(self.bench.bootstrap, self.topics.journal, lane))

    def written(self) -> int:
        """The end of lane 0 in the topic, markers and aborted records among it; cheap to ask."""
        _, end = self._watcher.get_watermark_offsets(TopicPartition(self.topics.journal, 0), timeout=10)
        return int(end)

    def check(self) -> None:
        """The topic has every record of the table, once, in order and whole, and nothing else."""
        for lane in (0, 1):
            out = self.topic_records(lane)
            rows = list(self.bench.records(lane))
            assert [record["seq"] for record in out] == [row["seq"] for row in rows]
            for record, row in zip(out, rows, strict=True):
                for member in RECORD_MEMBERS:
                    assert record[member] == row[member], (lane, row["seq"], member)
                assert record["intent_id"] == (str(row["intent_id"]) if row["intent_id"] else None)
                assert record["reverses"] == (str(row["reverses"]) if row["reverses"] else None)
                assert record["metadata"] == (row["metadata"] or {})
                signs = {"debit": 1, "credit": -1}
                legs = [
                    (leg["account"], signs[leg["direction"]], leg["amount_minor"], leg["currency"])
                    for leg in record["legs"]
                ]
                assert legs == [
                    (leg["address"], leg["direction"], leg["amount_minor"], leg["currency"]) for leg in row["legs"]
                ]
                assert hash_of(row) == record["hash"]
            found = read_checkpoints(self.bench.bootstrap, self.topics.relay)
            assert found.get(lane, Checkpoint()) == (len(rows), rows[-1]["hash"] if rows else bytes(32))


@pytest.fixture
def ledger(bench: PostingBench, settings: Settings, topics: Topics) -> Iterator[RelayBench]:
    made = RelayBench(bench, settings, topics)
    yield made
    made.close()


def relay_all(relay: Relay) -> int:
    """Round after round until nothing is left; how many records that were."""
    total = 0
    while done := relay.round():
        total += done
    return total


def deposits(count: int, first: int = 0) -> list[Any]:
    """Intents of one cent each."""
    return [transfer(f"k{n}", *pair("external:b", f"users:{n % 9}", 1)) for n in range(first, first + count)]


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


def test_shards_share_the_lanes(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(5), lane=0)
    ledger.bench.post_now(deposits(7, 5), lane=1)
    even, odd = ledger.relay(shard=0, shards=2), ledger.relay(shard=1, shards=2)
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
    """Of few records the commit meets the fence, of many it is met while they are handed over."""
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


def test_the_checkpoint_is_read_only_after_earlier_relays_are_locked_out(
    ledger: RelayBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round, a zombie could commit in between, and its records would come twice."""
    ledger.bench.post_now(deposits(5))
    zombie, successor = ledger.relay(), ledger.relay()
    zombie.start()
    read = relay_module.read_checkpoints

    def while_reading(bootstrap: str, topic: str) -> dict[int, Checkpoint]:
        with pytest.raises(KafkaException):
            zombie.round()
        return read(bootstrap, topic)

    monkeypatch.setattr(relay_module, "read_checkpoints", while_reading)
    successor.start()
    assert successor.round() == 5
    ledger.check()


def test_what_a_relay_left_open_is_not_seen_and_comes_once_from_the_next(ledger: RelayBench) -> None:
    ledger.bench.post_now(deposits(5))
    dying, successor = ledger.relay(), ledger.relay()
    dying.start()
    producer = dying._producer
    assert producer is not None
    producer.begin_transaction()
    for record in dying._store.records(0, 0, 5):
        dying._produce_record(record)
    assert producer.flush(10) == 0
    assert ledger.relayed() == 0
    successor.start()
    assert relay_all(successor) == 5
    ledger.check()


def test_a_relay_ahead_of_its_ledger_refuses(ledger: RelayBench) -> None:
    """Such as after Postgres was restored from an old backup: what would follow is not what was relayed."""
    ledger.bench.post_now(deposits(5))
    relay = ledger.relay()
    relay.start()
    assert relay_all(relay) == 5
    relay.close()
    with psycopg.connect(ledger.bench.dsn) as connection:
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
    """From the commit to a record that a reader can see, though the relay would look by itself only every 5 s."""
    assert relay_module.WAIT_SECONDS_MAX == 5.0
    relay = ledger.relay()
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    reader = Consumer(
        {
            "bootstrap.servers": ledger.bench.bootstrap,
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


# ------------------------------------------------------------------------------------------ the real process


def test_killed_in_mid_transaction_and_started_again_each_record_comes_once(
    ledger: RelayBench, settings: Settings, tmp_path: Path
) -> None:
    total = 6000
    ledger.bench.post_now(deposits(total))
    small = settings.model_copy(update={"relay_batch_records_max": 20})
    for share in (0.1, 0.4):
        with ServiceProcess("relay", small, tmp_path) as process:
            eventually(lambda share=share: ledger.written() >= total * share, "it is under way")
            process.kill()
        assert ledger.relayed() < total, "it was to be killed in the middle"
    with ServiceProcess("relay", small, tmp_path) as process:
        eventually(lambda: ledger.relayed() >= total, "all is relayed", 60)
        assert process.stop(10) == 0
    ledger.check()


def test_postgres_that_goes_away_costs_nothing(ledger: RelayBench, settings: Settings, tmp_path: Path) -> None:
    small = settings.model_copy(update={"relay_batch_records_max": 50})
    ledger.bench.post_now(deposits(1000))
    with ServiceProcess("relay", small, tmp_path) as process:
        for share in (100, 400, 1000):
            eventually(lambda share=share: ledger.relayed() >= share, "it is under way")
            ledger.bench.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ledgerline_relay' AND datname = current_database()"
            )
        ledger.bench.post_now(deposits(5, 1000))
        eventually(lambda: ledger.relayed() >= 1005, "it goes on")
        eventually(lambda: process.events("relay begins anew"), "it tells")
        assert process.stop(10) == 0
    ledger.check()


def test_a_second_process_takes_over_and_the_first_ends_with_one_sentence(
    ledger: RelayBench, settings: Settings, tmp_path: Path
) -> None:
    with ServiceProcess("relay", settings, tmp_path) as first:
        first.wait_until_ready()
        with ServiceProcess("relay", settings, tmp_path) as second:
            second.wait_until_ready()
            ledger.bench.post_now(deposits(50))
            assert first.ended() == 1
            assert "Another relay took over" in first.log().strip().splitlines()[-1]
            eventually(lambda: ledger.relayed() >= 50, "the second has it")
            assert second.stop(10) == 0
    ledger.check()


def test_a_checkpoint_behind_another_shards_open_transaction_is_waited_for(ledger: RelayBench) -> None:
    """The stable end of the checkpoints' topic lies before it: who stopped there would relay everything again."""
    relay = ledger.relay(shard=0, shards=2)
    relay.start()
    other = Producer({"bootstrap.servers": ledger.bench.bootstrap, "transactional.id": f"{ledger.topics.prefix}other"})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(ledger.topics.relay, b"unfinished", b"1", partition=0)
    assert other.flush(10) == 0
    ledger.bench.post_now(deposits(5))
    assert relay_all(relay) == 5

    successor = ledger.relay(shard=0, shards=2)
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
