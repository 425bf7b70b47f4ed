"""The outbox on real Postgres and Kafka: an event commits with its change, and is published once and in order."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import KafkaException

from db import worker
from db.connections import TRANSIENT
from db.outbox import append
from db.worker import WorkerConnection
from domain.events import LANES, choose_lane, make_event_id
from domain.topics import SUBJECTS, Topics
from producers import standby
from producers.relay_outbox import EVENTS_MAX, PRUNE_SECONDS
from producers.relay_positions import RelayAhead
from producers.standby import STANDBY, StandbyRelay
from runtime.settings import Settings
from streams.beside import Beside
from tests.outbox_bench import OutboxBench, add_schema, read_texts, relay_all
from tests.posting_bench import eventually

STEPS = ("read", "produced", "committed")


@pytest.fixture
def outbox(
    settings: Settings, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OutboxBench]:
    for subject, entry in add_schema(tmp_path).items():
        monkeypatch.setitem(SUBJECTS, subject, entry)
    made = OutboxBench(settings, topics)
    yield made
    made.close()


def test_an_event_arrives_with_its_key_and_its_headers(outbox: OutboxBench) -> None:
    first = outbox.encode("notes:1", 1, "one \N{MONEY BAG}")._replace(correlation_id="c-1", traceparent="00-a-b-01")
    outbox.append(first)
    outbox.append(outbox.encode("notes:1", 2, "two"), outbox.encode("notes:2", 1, "other"))
    relay = outbox.relay()
    relay.start()
    assert relay_all(relay) == 3
    found = outbox.published(3)
    of_first = [message for _, message in found if message.key() == b"default/notes:1"]
    assert read_texts(of_first) == ["one \N{MONEY BAG}", "two"]
    assert dict(of_first[0].headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": str(make_event_id(first.event)).encode(),
        "ce_source": b"/ledgerline/transaction",
        "ce_type": b"ledgerline.transaction.NoteChanged",
        "ce_subject": b"notes:1",
        "ce_time": b"1970-01-01T00:00:01.000000Z",
        "ce_tenant": b"default",
        "ce_aggregateversion": b"1",
        "content-type": b"application/avro",
        "correlation_id": b"c-1",
        "traceparent": b"00-a-b-01",
    }
    assert len({partition for partition, message in found if message.key() == b"default/notes:1"}) == 1
    assert relay.round() == 0


def test_what_rolls_back_leaves_neither_an_event_nor_a_gap(outbox: OutboxBench) -> None:
    outbox.append(outbox.encode("notes:1", 1))
    with outbox.connect() as connection:
        append(connection, [outbox.encode("notes:1", 2)])
        connection.rollback()
    outbox.append(outbox.encode("notes:1", 2), outbox.encode("notes:1", 3))
    assert [(seq, version) for _, seq, _, version in outbox.rows()] == [(0, 1), (1, 2), (2, 3)]


def test_a_version_has_one_event(outbox: OutboxBench) -> None:
    outbox.append(outbox.encode("notes:1", 1))
    with pytest.raises(psycopg.errors.UniqueViolation):
        outbox.append(outbox.encode("notes:2", 1), outbox.encode("notes:1", 1, "another"))
    assert [aggregate for *_, aggregate, _ in outbox.rows()] == ["notes:1"]


def test_an_event_that_does_not_fit_its_schema_fails_its_own_change(outbox: OutboxBench) -> None:
    with pytest.raises(TypeError, match="text"):
        outbox.encode("notes:1", 1, data={"text": 7})
    with pytest.raises(KeyError, match="NoteBurnt"):
        outbox.encode("notes:1", 1, type="NoteBurnt")


def test_appends_at_once_number_each_lane_in_the_order_of_its_commits(outbox: OutboxBench) -> None:
    """A transaction holds its lanes until it commits, so a reader of committed rows never sees a later seq first."""

    def change(worker: int) -> None:
        draw = random.Random(worker)
        with outbox.connect() as connection:
            for version in range(1, 26):
                names = draw.sample(range(40), 3)
                append(connection, [outbox.encode(f"notes:{worker}:{name}:{version}", 1) for name in names])
                connection.commit()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(change, range(4)))
    rows = outbox.rows()
    assert len(rows) == 4 * 25 * 3
    seqs: dict[int, list[int]] = defaultdict(list)
    for lane, seq, _, _ in rows:
        seqs[lane].append(seq)
    assert all(found == list(range(len(found))) for found in seqs.values())
    assert len(seqs) == LANES


def test_an_append_waits_for_the_lane_and_takes_the_next_seq(outbox: OutboxBench) -> None:
    early, late = outbox.encode("notes:1", 1), outbox.encode("notes:1", 2)
    with outbox.connect() as holder:
        append(holder, [early])
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(outbox.append, late)
            with psycopg.connect(outbox.dsn, autocommit=True) as admin:
                asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database"
                asked += " WHERE datname = current_database()) OR (NOT granted AND locktype = 'transactionid')"
                eventually(lambda: admin.execute(asked).fetchone() != (0,), "the second append waits")
            assert not waiting.done()
            holder.commit()
            waiting.result(10)
    assert [(seq, version) for _, seq, _, version in outbox.rows()] == [(0, 1), (1, 2)]


class Killed(BaseException):
    """Stands for a SIGKILL of the relay: nothing of it runs any more."""


def check_kills(outbox: OutboxBench, *, kills: int, changes: int) -> None:
    """Append changes while relays are killed at random steps. Each aggregate's versions must arrive once, in order."""
    aggregates = 50
    done = threading.Event()

    def change() -> None:
        with outbox.connect() as connection:
            for number in range(changes):
                encoded = outbox.encode(f"notes:{number % aggregates}", number // aggregates + 1, str(number))
                append(connection, [encoded])
                connection.commit()
        done.set()

    draw = random.Random(7)
    victims: dict[str, int] = defaultdict(int)
    with ThreadPoolExecutor(1) as thread:
        appended = thread.submit(change)
        for _ in range(kills):
            step, rounds = draw.choice(STEPS), draw.randint(1, 3)
            left = iter(range(rounds))

            def fault(name: str, step: str = step, left: Iterator[int] = left) -> None:
                if name == step and next(left, None) is None:
                    raise Killed

            relay = outbox.relay(fault=fault, records_max=37)
            relay.start()
            try:
                while not (done.is_set() and relay.round() == 0):
                    relay.round()
            except Killed:
                victims[step] += 1
                relay._producer = None  # its open transaction stays, as after SIGKILL
        appended.result(120)
    last = outbox.relay()
    last.start()
    relay_all(last)
    versions: dict[bytes, list[int]] = defaultdict(list)
    for _, message in outbox.published(changes):
        versions[message.key()].append(int(dict(message.headers())["ce_aggregateversion"]))
    assert len(versions) == aggregates
    for key, found in versions.items():
        assert found == list(range(1, changes // aggregates + 1)), key
    assert set(victims) == set(STEPS), victims


def test_a_relay_that_is_killed_at_any_step_loses_and_doubles_nothing(outbox: OutboxBench) -> None:
    check_kills(outbox, kills=12, changes=1_000)


@pytest.mark.long
def test_a_hundred_kills_over_ten_thousand_changes(outbox: OutboxBench) -> None:
    check_kills(outbox, kills=100, changes=10_000)


def test_a_second_relay_locks_the_first_out(outbox: OutboxBench) -> None:
    first, second = outbox.relay(), outbox.relay()
    outbox.append(outbox.encode("notes:1", 1))
    first.start()
    assert first.round() == 1
    outbox.append(outbox.encode("notes:1", 2))
    second.start()
    with pytest.raises(KafkaException):
        first.round()
    assert second.round() == 1
    assert len(outbox.published(2)) == 2


def test_instances_share_the_lanes(outbox: OutboxBench) -> None:
    encoded = [outbox.encode(f"notes:{number}", 1) for number in range(40)]
    outbox.append(*encoded)
    even, odd = outbox.relay(instance=0, instances=2), outbox.relay(instance=1, instances=2)
    even.start()
    odd.start()
    wanted = sum(choose_lane(item.event) % 2 == 0 for item in encoded)
    assert (relay_all(even), relay_all(odd)) == (wanted, 40 - wanted)


def test_only_published_events_are_pruned_and_only_after_their_time(outbox: OutboxBench) -> None:
    outbox.append(*[outbox.encode(f"notes:{number}", 1) for number in range(20)])
    keeping = outbox.relay()
    keeping.start()
    assert relay_all(keeping) == 20
    assert len(outbox.rows()) == 20, "they are younger than a day"
    keeping.close()
    pruning = outbox.relay(kept_seconds=0.0)
    pruning.start()
    outbox.append(outbox.encode("notes:1", 2))
    assert pruning.round() == 1
    assert len(outbox.rows()) == 21
    assert pruning.round() == 0
    assert outbox.rows() == []
    outbox.append(outbox.encode("notes:1", 3))
    assert pruning.round() == 1
    assert pruning.round() == 0
    assert len(outbox.rows()) == 1, f"the next look comes after {PRUNE_SECONDS} s"
    assert [version for _, seq, _, version in outbox.rows()] == [3]


def test_an_instance_prunes_its_own_lanes_alone(outbox: OutboxBench) -> None:
    encoded = [outbox.encode(f"notes:{number}", 1) for number in range(40)]
    outbox.append(*encoded)
    whole = outbox.relay()
    whole.start()
    relay_all(whole)
    whole.close()
    odd = outbox.relay(instance=1, instances=2, kept_seconds=0.0)
    odd.start()
    assert odd.round() == 0
    left = {lane for lane, *_ in outbox.rows()}
    assert left == {choose_lane(item.event) for item in encoded if choose_lane(item.event) % 2 == 0}


def test_a_round_holds_a_bounded_number_of_events(outbox: OutboxBench) -> None:
    outbox.append(*[outbox.encode(f"notes:{number}", 1) for number in range(EVENTS_MAX + 5)])
    relay = outbox.relay()
    relay.start()
    assert [relay.round(), relay.round(), relay.round()] == [EVENTS_MAX, 5, 0]


def test_a_relay_refuses_an_outbox_that_is_behind_or_that_lacks_events(outbox: OutboxBench) -> None:
    outbox.append(*[outbox.encode("notes:1", version) for version in range(1, 6)])
    relay = outbox.relay()
    relay.start()
    assert relay_all(relay) == 5
    with psycopg.connect(outbox.dsn) as admin:
        admin.execute("UPDATE outbox.lane SET next_seq = 3 WHERE next_seq = 5")
    with pytest.raises(RelayAhead, match="was published up to 5, but the database has it up to 3"):
        relay.round()
    with psycopg.connect(outbox.dsn) as admin:
        admin.execute("UPDATE outbox.lane SET next_seq = 9 WHERE next_seq = 3")
        admin.execute("UPDATE outbox.event SET seq = 8 WHERE seq = 4")
    with pytest.raises(RelayAhead, match="was published up to 5, but its first event left is 8"):
        relay.round()
    with psycopg.connect(outbox.dsn) as admin:
        admin.execute("DELETE FROM outbox.event WHERE seq = 8")
    with pytest.raises(RelayAhead, match="was published up to 5, but no later event is left"):
        relay.round()


def test_a_reader_gets_an_event_soon_after_its_commit(outbox: OutboxBench) -> None:
    relay = outbox.relay()
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: relay.missing() is None, "the relay has started")
        outbox.append(outbox.encode("notes:1", 1))
        started = time.monotonic()
        outbox.published(1)
        assert time.monotonic() - started < 4, "it waits up to 5 s for a notification"
    finally:
        stop.set()
        thread.join(20)


def test_an_outbox_that_cannot_be_published_does_not_stop_other_parts(outbox: OutboxBench) -> None:
    outbox.append(outbox.encode("notes:1", 1))
    failing, other = StandbyRelay(WorkerConnection(outbox.dsn), outbox.relay()), Patient()
    with psycopg.connect(outbox.dsn) as admin:
        admin.execute("UPDATE outbox.lane SET next_seq = 5 WHERE next_seq = 1")
        admin.execute("UPDATE outbox.event SET seq = 4")
    beside = Beside([failing, other])
    beside.start()
    try:
        eventually(lambda: "its first event left is 4" in (beside.missing() or ""), "the failure is told")
        assert beside.progressed_at == other.progressed_at, "the watchdog does not wait for a part that has ended"
        assert not other.ended
    finally:
        beside.join()
    assert other.ended


def test_a_second_worker_stands_by_and_takes_over(outbox: OutboxBench) -> None:
    first, second = (StandbyRelay(WorkerConnection(outbox.dsn), outbox.relay()) for _ in range(2))
    ahead, behind = Beside([first]), Beside([second])
    ahead.start()
    try:
        outbox.append(outbox.encode("notes:1", 1))
        outbox.published(1)
        behind.start()
        eventually(lambda: STANDBY.labels("outbox")._value.get() == 1, "the second one stands by")
        assert behind.missing() is None
        ahead.join()
        outbox.append(outbox.encode("notes:1", 2))
        outbox.published(2)
    finally:
        ahead.join()
        behind.join()


def test_a_frozen_worker_loses_its_turn(outbox: OutboxBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process says nothing, but its host keeps the connection open."""
    monkeypatch.setattr(worker, "TURN_IDLE_SECONDS_MAX", 0.5)
    frozen, other = WorkerConnection(outbox.dsn), WorkerConnection(outbox.dsn)
    try:
        assert frozen.take_turn("outbox")
        assert not other.take_turn("outbox")
        eventually(lambda: other.take_turn("outbox"), "Postgres has ended the silent session")
        with pytest.raises(TRANSIENT):
            frozen.take_turn("outbox")
        assert not frozen.take_turn("outbox")
    finally:
        frozen.close()
        other.close()


def test_a_running_relay_keeps_its_turn_while_it_waits(outbox: OutboxBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is appended: the relay only waits, six times as long as a silent session would live."""
    monkeypatch.setattr(worker, "TURN_IDLE_SECONDS_MAX", 0.5)
    monkeypatch.setattr(standby, "KEEP_SECONDS", 0.1)
    relay, other = StandbyRelay(WorkerConnection(outbox.dsn), outbox.relay()), WorkerConnection(outbox.dsn)
    beside = Beside([relay])
    beside.start()
    try:
        eventually(lambda: relay._is_running, "the relay has its turn")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert not other.take_turn("outbox")
            threading.Event().wait(0.05)  # the other's own session must not be silent either
    finally:
        beside.join()
        other.close()


class Patient:
    """A part that only waits."""

    name = "patient"

    def __init__(self) -> None:
        self.ended = False
        self.progressed_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Wait for the stop."""
        assert stop.wait(60)
        self.ended = True

    def missing(self) -> str | None:
        """Miss nothing."""
        return None
