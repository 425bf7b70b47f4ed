"""Events that break their batch, outages in the middle of one, and a topic that is no longer the same."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import psycopg
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from db.posting import BatchRefused, PostingStore
from domain import decision
from domain.decision import Event, Fate, LedgerView
from domain.errors import Outage
from domain.intents import Intent, Leg
from domain.outcomes import Outcome
from domain.topics import Topics
from producers.deploy import Replication, add_partitions, make_topics
from streams.decode import IntentDecoder
from streams.fenced import FenceLost
from streams.posting.reading import NO_RECORD_DETAIL
from streams.posting.source import KafkaAway, TopicMismatch
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import script

KEYS = " | ".join(f"k{number} external:b>users:{number} 9" for number in range(9))
MOVES = script(KEYS)
POISONED = "k4"

Decide = Callable[[Sequence[Event], LedgerView], list[Fate]]


def is_poisoned(event: Event) -> bool:
    """Return whether this is the event that the test makes fail."""
    return event.intent is not None and event.intent.idempotency_key == POISONED


def sabotage(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Fate], Fate]) -> None:
    """Make the decision on the poisoned event go wrong."""

    def decide(events: Sequence[Event], view: LedgerView) -> list[Fate]:
        fates = decision.decide_batch(events, view)
        return [wrong(fate) if is_poisoned(event) else fate for event, fate in zip(events, fates, strict=True)]

    monkeypatch.setattr("streams.posting.poster.decide_batch", decide)


def raising(error: Exception) -> Callable[[Fate], Fate]:
    """Return a decision that raises `error`, as a bug would."""

    def wrong(_: Fate) -> Fate:
        raise error

    return wrong


def with_legs(change: Callable[[tuple[Leg, ...]], tuple[Leg, ...]]) -> Callable[[Fate], Fate]:
    """Return a decision that posts changed legs; only a posted fate has legs to change, a quarantined one has none."""
    return lambda fate: fate._replace(legs=change(fate.legs)) if fate.outcome is Outcome.POSTED else fate


# fmt: off
SABOTAGES: tuple[tuple[str, Callable[[Fate], Fate]], ...] = (
    ("a bug: TypeError", raising(TypeError("a bug"))),
    ("a bug: KeyError", raising(KeyError("a bug"))),
    ("a bug: AttributeError", raising(AttributeError("a bug"))),
    ("a bug: ZeroDivisionError", raising(ZeroDivisionError("a bug"))),
    ("a bug: RecursionError", raising(RecursionError("a bug"))),
    ("a bug: assert", raising(AssertionError("a bug"))),
    ("unbalanced", with_legs(lambda legs: (legs[0], legs[1]._replace(amount_minor=8)))),
    ("balanced only across currencies", with_legs(lambda legs: (legs[0], legs[1]._replace(currency="USD")))),
    ("one leg", with_legs(lambda legs: legs[:1])),
    ("no legs", with_legs(lambda _: ())),
    ("nothing moved", with_legs(lambda legs: tuple(leg._replace(amount_minor=0) for leg in legs))),
    ("negative", with_legs(lambda legs: tuple(leg._replace(amount_minor=-9) for leg in legs))),
    ("no direction", with_legs(lambda legs: tuple(leg._replace(direction=0) for leg in legs))),
    ("an account that is not open", with_legs(lambda legs: tuple(leg._replace(account="users:x") for leg in legs))),
    ("a reason for what was posted", lambda fate: fate._replace(reason="none") if fate.legs else fate),
    ("rejected without a reason", lambda fate: Fate(Outcome.REJECTED) if fate.legs else fate),
    ("text that Postgres has not", lambda fate: fate._replace(detail="a\x00b") if fate.legs else fate),
)
# fmt: on


@pytest.mark.parametrize("wrong", [wrong for _, wrong in SABOTAGES], ids=[name for name, _ in SABOTAGES])
def test_a_poisoned_event_is_isolated_and_its_neighbours_are_posted(
    bench: PostingBench, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Fate], Fate]
) -> None:
    """The test breaks the checks of the code, so the database itself refuses most of these fates."""
    made = bench.batch(MOVES)
    sabotage(monkeypatch, wrong)
    bench.poster.handle([made])
    assert bench.fates() == ["posted"] * 4 + ["poison"] + ["posted"] * 4
    kept = bench.rows("SELECT lane, seq, value FROM ledger.quarantine")
    assert kept == [{"lane": 0, "seq": 4, "value": made.messages[4].value}]
    assert bench.balance("external:b") == 9 * 8
    bench.verify()
    monkeypatch.undo()
    # Quarantine settles no intent: once the bug is gone, the same intent is posted when it comes again.
    assert bench.post_now(MOVES[3:6]) == ["duplicate", "posted", "duplicate"]
    bench.verify()


def test_several_poisoned_events_in_two_lanes(bench: PostingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [bench.batch([*MOVES, *MOVES], 0), bench.batch(MOVES, 1)]
    sabotage(monkeypatch, raising(ValueError("a bug")))
    bench.poster.handle(batches)
    once = ["posted"] * 4 + ["poison"] + ["posted"] * 4
    again = ["duplicate"] * 4 + ["poison"] + ["duplicate"] * 4
    assert (bench.fates(0), bench.fates(1)) == (once + again, again)
    bench.verify()


def test_a_poisoned_event_is_isolated_while_another_lane_settles_the_rest(
    bench: PostingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch has an intent that another lane settles meanwhile, and a poisoned one: the collision comes first."""
    # Open the accounts first, because a worker that opens an account makes others wait until its commit.
    bench.post_now([move._replace(idempotency_key=f"open-{move.idempotency_key}") for move in MOVES])
    first = bench.stands(0)[0]["next_offset"]
    mine, theirs = bench.batch(MOVES, 0), bench.batch(MOVES[:1], 1)
    other = bench.new_poster()
    pending = [theirs]

    def settle_elsewhere(point: str) -> None:
        if point == "decided" and pending:
            other.handle([pending.pop()])

    sabotage(monkeypatch, with_legs(lambda legs: legs[:1]))
    bench.new_poster(fault=settle_elsewhere).handle([mine])
    assert bench.fates(0, first) == ["duplicate"] + ["posted"] * 3 + ["poison"] + ["posted"] * 4
    assert bench.fates(1) == ["posted"]
    bench.verify()


def test_an_event_that_breaks_the_reading_is_isolated_too(bench: PostingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test makes the decoder return a direction that does not exist, so the fingerprint cannot be computed."""
    whole = IntentDecoder.decode

    def broken(decoder: IntentDecoder, value: bytes | None) -> Intent:
        intent = whole(decoder, value)
        first, second = intent.legs
        return intent._replace(legs=(first, second._replace(direction=7))) if second.account == "users:4" else intent

    monkeypatch.setattr(IntentDecoder, "decode", broken)
    assert bench.post_now(MOVES) == ["posted"] * 4 + ["poison"] + ["posted"] * 4
    bench.verify()


@pytest.mark.parametrize("point", ["decoded", "decided", "written", "before_commit", "committed"])
def test_a_connection_that_dies_at_any_point_leaves_all_or_nothing(bench: PostingBench, point: str) -> None:
    made = bench.batch(MOVES)
    strikes = [point]

    def kill(at: str) -> None:
        """Have Postgres end this worker's backend."""
        if at in strikes:
            strikes.remove(at)
            bench.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE starts_with(application_name, 'ledgerline_posting') AND datname = current_database()"
            )

    poster = bench.new_poster(fault=kill)
    bench.take_over([0], poster)
    tries = bench.persist(poster, made)
    assert tries == (1 if point == "committed" else 2)
    assert bench.fates() == ["posted"] * 9
    bench.verify()
    assert bench.persist(poster, bench.batch(script("next external:b>users:1 1"))) == (2 if point == "committed" else 1)
    assert bench.balance("external:b") == 9 * 9 + 1
    bench.verify()


def test_a_worker_that_dies_between_the_halves_of_an_isolation_goes_on_where_it_was(
    bench: PostingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.batch(MOVES)
    sabotage(monkeypatch, raising(ValueError("a bug")))
    commits = iter(range(100))

    def die(point: str) -> None:
        if point == "committed" and next(commits) == 1:
            raise psycopg.OperationalError("the worker lost its connection")

    assert bench.persist(bench.new_poster(fault=die), made) == 2
    assert bench.fates() == ["posted"] * 4 + ["poison"] + ["posted"] * 4
    bench.verify()


def test_a_lock_that_someone_holds_is_waited_for_not_for_ever(bench: PostingBench) -> None:
    """An operator's transaction locks the lane: the batch fails after lock_timeout, as in an outage, then is posted."""
    made = bench.batch(MOVES)
    poster = bench.new_poster()
    poster._store._open().execute("SET lock_timeout = '200ms'")
    with psycopg.connect(bench.dsn) as holder:
        holder.execute("SELECT * FROM ledger.lane FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            poster.handle([made])
    poster.handle([made])
    assert bench.fates() == ["posted"] * 9
    bench.verify()


def test_a_transaction_ends_after_the_statement_that_it_started(bench: PostingBench) -> None:
    store = PostingStore(bench.dsn)
    started = []
    with pytest.raises(LookupError), store.transaction() as connection:  # noqa: PT012 - the statement must be under way
        started.append(store._start(connection.execute, "SELECT pg_sleep(0.5)"))
        raise LookupError
    assert started[0].done()
    with pytest.raises(BatchRefused), store.transaction() as connection:  # nobody asks for the result
        store._start(connection.execute, "SELECT 1 / 0")
    with pytest.raises(BatchRefused) as refused, store.transaction() as connection:  # noqa: PT012
        store._start(connection.execute, "SELECT 1 / 0")
        raise LookupError
    assert isinstance(refused.value.__cause__.__context__, LookupError)  # type: ignore[union-attr]
    with store.transaction():  # an earlier failure is forgotten
        assert store.lanes([0], lock=True) == {}
    store.close()


def test_a_batch_from_elsewhere_than_the_lane_stands_moves_nothing(bench: PostingBench) -> None:
    assert bench.post_now(MOVES[:3]) == ["posted"] * 3
    for start in (0, 2, 4, 100):
        with pytest.raises(FenceLost, match=f"lane 0 stands at 3, not at {start}"):
            bench.poster.handle([bench.batch(MOVES, start=start)])
    with pytest.raises(FenceLost):  # one lane fits, the other does not: neither moves
        bench.poster.handle([bench.batch(MOVES, 0), bench.batch(MOVES, 1, start=5)])
    assert (bench.fates(0), bench.fates(1)) == (["posted"] * 3, [])
    bench.verify()


def test_records_that_the_topic_lost_are_never_stepped_over(bench: PostingBench) -> None:
    made = bench.batch(MOVES)
    holed = made._replace(messages=[message for message in made.messages if message.offset != 4])
    with pytest.raises(TopicMismatch, match="lacks 1 records of lane 0 between 0 and 9: restore the topic"):
        bench.poster.handle([holed])
    assert bench.fates() == []


# ------------------------------------------------------------------------------------------ another topic


def test_a_topic_made_anew_is_refused(bench: PostingBench, topics: Topics) -> None:
    bench.send_all(MOVES)
    assert bench.post() == ["posted"] * 9
    remake(bench, topics)
    for lane in (0, 1):
        with pytest.raises(TopicMismatch, match="but the topic there now is"):
            bench.take_over([lane])
    bench.verify()


def test_a_topic_that_lost_its_end_is_refused(bench: PostingBench) -> None:
    """Such a topic was restored from a backup that is older than the ledger."""
    bench.send_all(MOVES)
    assert bench.post() == ["posted"] * 9
    bench.poster.handle([bench.batch(MOVES[:1])])
    with pytest.raises(TopicMismatch, match="up to 10, but the topic ends at 9: restore the topic"):
        bench.take_over([0])


def test_a_batch_is_not_posted_where_the_topic_was_made_anew_before_it_was_fetched(
    bench: PostingBench, topics: Topics
) -> None:
    """The offsets fit, because the new topic has outgrown the lane; only the topic id differs."""
    bench.send_all(MOVES)
    assert bench.post() == ["posted"] * 9
    remake(bench, topics)
    with pytest.raises(TopicMismatch, match="but the topic there now is"):
        bench.poster.handle([bench.batch(MOVES)])
    assert bench.fates() == ["posted"] * 9
    bench.verify()


def test_a_batch_waits_where_the_topic_cannot_be_asked_for(bench: PostingBench) -> None:
    away: Future[str] = Future()
    away.set_exception(KafkaAway("Kafka does not tell."))
    bench.take_over([0])
    poster = bench.new_poster(ask_topic_id=lambda: away)
    with pytest.raises(KafkaAway):
        poster.handle([bench.batch(MOVES)])
    assert bench.fates() == []
    bench.poster.handle([bench.batch(MOVES)])
    assert bench.fates() == ["posted"] * 9


def test_a_topic_that_lost_what_was_not_posted_is_refused(bench: PostingBench) -> None:
    from confluent_kafka import TopicPartition

    bench.send_all(MOVES)
    assert bench.take_over([0]) == {0: 0}
    admin = AdminClient(bench.kafka.make_client_options())
    for deletion in admin.delete_records([TopicPartition(bench.topics.intents, 0, 5)]).values():
        deletion.result(10)
    with pytest.raises(TopicMismatch, match="up to 0, but the topic now begins at 5: intents were deleted"):
        bench.take_over([0])


def test_a_partition_that_one_broker_has_not_heard_of_is_waited_for(bench: PostingBench) -> None:
    """When lanes are added, the group's broker may know the partition before the broker that describes the topic."""
    add_partitions(bench.kafka, bench.topics.journal, 3)
    with pytest.raises(Outage, match=r"does not describe the partitions \[2\] of"):
        bench.poster.positions(bench.topics.intents, [0, 1, 2])
    assert bench.rows("SELECT * FROM ledger.lane") == []


def test_a_fetch_that_left_records_out_is_dropped(bench: PostingBench) -> None:
    """The topic still has these records, so no other row may take their offsets."""
    bench.send_all(MOVES)
    (made,) = bench.fetch()
    for left_out in ({0}, {4}, {8}, {0, 1, 2}, set(range(9))):
        holed = made._replace(messages=[message for message in made.messages if message.offset not in left_out])
        with pytest.raises(FenceLost, match="the fetch of lane 0 left out records between 0 and 9"):
            bench.poster.handle([holed])
    assert bench.fates() == []
    assert bench.post() == ["posted"] * 9


def test_a_ledger_that_begins_late_begins_at_what_the_topic_still_has(bench: PostingBench) -> None:
    from confluent_kafka import TopicPartition

    bench.send_all(MOVES)
    admin = AdminClient(bench.kafka.make_client_options())
    for deletion in admin.delete_records([TopicPartition(bench.topics.intents, 0, 5)]).values():
        deletion.result(10)
    assert bench.post() == ["posted"] * 4
    assert bench.stands(0)[0]["first_offset"] == 5
    bench.verify()


@pytest.mark.parametrize("piece_offsets", [1, 2, 10_000])
def test_what_a_transaction_aborted_moves_nothing_and_each_offset_has_its_row(
    bench: PostingBench, monkeypatch: pytest.MonkeyPatch, piece_offsets: int
) -> None:
    """Transactional producers must not write intents; if one does, each offset still has exactly one fate."""
    monkeypatch.setattr("streams.posting.poster.PIECE_OFFSETS", piece_offsets)
    bench.send(MOVES[0])
    bench.send_transaction(MOVES[1:2], commit=True)
    bench.send_transaction(MOVES[2:4], commit=False)
    bench.send(MOVES[4])
    assert bench.send_transaction(MOVES[5:7], commit=False) == 10
    bench.send(MOVES[7], lane=1)
    bench.post()
    assert bench.fates() == ["posted", "posted", *["no_record"] * 4, "posted", *["no_record"] * 3]
    assert bench.fates(1) == ["posted"]
    details = bench.rows("SELECT DISTINCT detail FROM ledger.journal WHERE reason = 'no_record'")
    assert [row["detail"] for row in details] == [NO_RECORD_DETAIL]
    bench.verify()
    bench.send_all(MOVES[2:4])
    assert bench.post() == ["posted"] * 2  # the aborted transactions used up no key


def test_the_broker_refuses_a_transaction_that_could_stay_open_for_long(bench: PostingBench) -> None:
    options = {"transactional.id": f"{bench.topics.prefix}slow", "transaction.timeout.ms": 61_000}
    producer = Producer({**bench.kafka.make_client_options(), **options})
    with pytest.raises(KafkaException, match="INVALID_TRANSACTION_TIMEOUT"):
        producer.init_transactions(30)


def remake(bench: PostingBench, topics: Topics) -> None:
    """Delete the topic of intents and make it again."""
    admin = AdminClient(bench.kafka.make_client_options())
    for deletion in admin.delete_topics([topics.intents], operation_timeout=10).values():
        deletion.result(10)
    eventually(lambda: topics.intents not in admin.list_topics(timeout=10).topics, "the topic is gone")
    make_topics(bench.kafka, topics, 2, Replication())
