"""Reactions, outcomes and the clock on real Kafka and Postgres: effects commit with positions, poison waits alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.effects import ORIGIN_HEADER
from domain.topics import SUBJECTS, Topics
from runtime.settings import Settings
from streams.batches import FenceLost, PartitionBatch
from tests.notes import POISON, make_payment
from tests.outbox_bench import add_schema
from tests.worker_bench import HOUR, WorkerBench


@pytest.fixture
def worker(
    settings: Settings, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerBench]:
    for subject, entry in add_schema(tmp_path).items():
        monkeypatch.setitem(SUBJECTS, subject, entry)
    made = WorkerBench(settings, topics)
    yield made
    made.close()


def list_seen(worker: WorkerBench) -> list[tuple[str, int]]:
    return worker.ask("SELECT aggregate, version FROM tried.seen ORDER BY place")  # type: ignore[return-value]


def test_an_event_becomes_an_intent_and_its_outcome_becomes_an_event(worker: WorkerBench) -> None:
    reactor = worker.make_reactor()
    worker.publish(("notes:1", 1, "pay"), ("notes:2", 1, "pay from nobody"), ("notes:3", 1, "free"))
    assert worker.react(reactor) == 3
    assert sorted(list_seen(worker)) == [("notes:1", 1), ("notes:2", 1), ("notes:3", 1)]
    assert worker.send() == 2
    assert worker.send() == 0
    assert sorted(worker.books.post_and_relay()) == ["insufficient_funds", "posted"]
    assert worker.react(reactor) == 2
    assert worker.ask("SELECT id, told FROM tried.note ORDER BY id") == [
        ("1", ["1:posted:"]),
        ("2", ["1:rejected:insufficient_funds"]),
    ]
    worker.publish()
    texts = [
        text for _, text in worker.ask("SELECT seq, aggregate FROM outbox.event WHERE aggregate LIKE 'receipts%%'")
    ]
    assert sorted(texts) == ["receipts:1", "receipts:2"]


def test_an_intent_that_is_sent_twice_is_told_once(worker: WorkerBench) -> None:
    reactor = worker.make_reactor()
    worker.publish(("notes:1", 1, "pay"))
    worker.react(reactor)
    rows = worker.ask("SELECT record FROM worker.intent")
    assert worker.send() == 1
    # A crash after Kafka's acknowledgement leaves the row, and it is sent again.
    again = make_payment("1", 1)
    worker.books.send(again)
    assert worker.books.post_and_relay() == ["posted", "duplicate"]
    assert len(rows) == 1
    worker.react(reactor)
    assert worker.ask("SELECT told FROM tried.note") == [(["1:posted:"],)]


def test_only_records_of_own_intents_carry_the_header(worker: WorkerBench) -> None:
    reactor = worker.make_reactor()
    worker.books.send(make_payment("1", 7)._replace(idempotency_key="a client's"))
    worker.books.send(make_payment("1", 1))
    worker.books.post_and_relay()
    lanes = [worker.read(worker.topics.journal, lane, 0)[0] for lane in (0, 1)]
    headers = [dict(message.headers) for lane in lanes for message in lane]
    assert len(headers) == 2
    assert [found[ORIGIN_HEADER] for found in headers if ORIGIN_HEADER in found] == [b"notes"]
    assert worker.react(reactor) == 1


def test_poison_is_parked_with_its_reason_and_holds_up_its_own_subject_only(worker: WorkerBench) -> None:
    reactor = worker.make_reactor()
    worker.publish(("notes:1", 1, "one"), ("notes:1", 2, POISON), ("notes:1", 3, "three"), ("notes:2", 1, "other"))
    worker.react(reactor)
    assert sorted(list_seen(worker)) == [("notes:1", 1), ("notes:2", 1)]
    parked = worker.ask("SELECT subject, task, reason, attempts FROM worker.parked ORDER BY place")
    assert parked == [
        ("notes:1", "NoteChanged", "ValueError: this note cannot be read", 1),
        ("notes:1", "NoteChanged", "", 0),
    ]
    worker.publish(("notes:1", 4, "four"), ("notes:2", 2, "other"))
    worker.react(reactor)
    assert ("notes:2", 2) in list_seen(worker)
    # Each attempt fails, and the pause grows.
    assert not reactor.retry_parked(), "the first pause is not over"
    worker.now += 6_000_000
    assert reactor.retry_parked()
    (attempts, due), *_ = worker.ask("SELECT attempts, due_time FROM worker.parked ORDER BY place")
    assert (attempts, due - worker.now) == (2, 20_000_000)
    worker.now += HOUR
    worker.allow(reactor)
    while reactor.retry_parked():
        pass
    assert [version for name, version in list_seen(worker) if name == "notes:1"] == [1, 2, 3, 4]
    assert worker.ask("SELECT FROM worker.parked") == []


def test_a_message_that_is_no_event_is_parked_alone(worker: WorkerBench) -> None:
    reactor = worker.make_reactor()
    worker.publish(("notes:1", 1, "one"), ("notes:2", 1, "two"))
    batch = worker.list_batch(reactor)
    broken = [part._replace(messages=[m._replace(value=b"no Avro") for m in part.messages]) for part in batch[:1]]
    reactor.handle([*broken, *batch[1:]])
    count = len(broken[0].messages)
    assert worker.ask("SELECT count(*) FROM worker.parked WHERE reason LIKE 'Unreadable:%%'") == [(count,)]
    assert len(list_seen(worker)) == 2 - count


def test_a_batch_that_another_worker_had_is_dropped(worker: WorkerBench) -> None:
    first, second = worker.make_reactor(), worker.make_reactor()
    worker.publish(("notes:1", 1, "pay"))
    batch = worker.list_batch(first)
    worker.react(second)
    with pytest.raises(FenceLost, match=r"stands at [12], not at 0"):
        first.handle(batch)
    assert list_seen(worker) == [("notes:1", 1)]
    assert worker.send() == 1


def test_unwanted_records_move_positions_when_there_is_time(worker: WorkerBench) -> None:
    reactor, journal = worker.make_reactor(), worker.topics.journal

    def list_positions() -> list[tuple[int, int]]:
        query = "SELECT DISTINCT partition, next_offset FROM worker.position WHERE topic = %s AND next_offset > 0"
        return worker.ask(query, journal)  # type: ignore[return-value]

    worker.publish()
    worker.list_batch(reactor)  # begins the positions
    reactor.handle([PartitionBatch(journal, 0, 0, [], 7)])
    reactor.handle([PartitionBatch(journal, 0, 7, [], 9), PartitionBatch(journal, 1, 0, [], 2)])
    assert list_positions() == []
    reactor.idle()
    assert sorted(list_positions()) == [(0, 9), (1, 2)]
    # A batch with work moves past the unwanted records before it, too.
    worker.publish(("notes:1", 1, "free"))
    reactor.handle([PartitionBatch(journal, 0, 9, [], 12)])
    (event,) = [part for part in worker.list_batch(worker.make_reactor()) if part.messages]
    reactor.handle([event, PartitionBatch(journal, 0, 12, [], 13)])
    assert list_seen(worker) == [("notes:1", 1)]
    assert sorted(list_positions()) == [(0, 13), (1, 2)]


def test_unwanted_records_that_another_worker_has_passed_over_ask_for_a_seek(worker: WorkerBench) -> None:
    first, second, journal = worker.make_reactor(), worker.make_reactor(), worker.topics.journal
    worker.list_batch(first)
    first.handle([PartitionBatch(journal, 0, 0, [], 7)])
    second.handle([PartitionBatch(journal, 0, 0, [], 9)])
    second.idle()
    with pytest.raises(FenceLost, match=r"stands at 9, not at 0"):
        first.idle()
    first.idle()
    assert first.positions(journal, [0]) == {0: 9}


def test_effects_that_cannot_be_stored_park_their_own_work(worker: WorkerBench) -> None:
    """The outcome's event has a version that exists: only the outbox can notice."""
    reactor = worker.make_reactor()
    worker.outbox.append(worker.outbox.encode("receipts:1", 1))
    worker.publish(("notes:1", 1, "pay"), ("notes:2", 1, "pay"))
    worker.react(reactor)
    worker.send()
    worker.books.post_and_relay()
    worker.react(reactor)
    assert worker.ask("SELECT id FROM tried.note") == [("2",)]
    ((subject, reason),) = worker.ask("SELECT subject, reason FROM worker.parked")
    assert subject == "1"
    assert reason.startswith("UniqueViolation:")


def test_two_clocks_a_failure_and_a_week_of_downtime_do_each_thing_once(worker: WorkerBench) -> None:
    first, second = worker.make_clock(), worker.make_clock()
    for name in ("a", "b", POISON, "later"):
        due = worker.now + (HOUR if name == "later" else -7 * 24 * HOUR)
        with worker.connect().transaction() as transaction:
            transaction.execute("INSERT INTO tried.due (id, due_time) VALUES (%s, %s)", [name, due])
    assert first.round() == 3
    assert second.round() == 0
    assert worker.ask("SELECT id, done, reason FROM tried.due ORDER BY id") == [
        ("a", 1, None),
        ("b", 1, None),
        ("later", 0, None),
        (POISON, 0, "ValueError: this reminder cannot be read"),
    ]
    worker.now += HOUR
    assert (second.round(), first.round()) == (2, 0)  # the deferred one fails again
    assert worker.send() == 3
    assert worker.books.post_and_relay() == ["posted"] * 3
