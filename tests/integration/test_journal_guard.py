"""A worker does not post to a lane if the ledger lacks records that ledger.journal has, as a restored old copy does."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from domain.journal import GENESIS_HASH
from runtime.journal_ends import RECORD_START
from runtime.schemas import parse_own_schema
from streams.posting.published import JournalAhead, JournalUnsettled, Published, read_last_published
from tests.copies import copy_of, settings_for
from tests.posting_bench import PostingBench, eventually
from tests.proving_bench import ProvingBench
from tests.service_process import ServiceProcess


@pytest.fixture
def old_copy(proving: ProvingBench) -> Iterator[PostingBench]:
    """Yield a copy of the ledger as it was before its last postings."""
    post(proving, "before", 3)
    with copy_of(proving, "old") as dsn:
        made = PostingBench(settings_for(proving.settings, dsn), proving.topics)
        yield made
        made.close()


def post(bench: ProvingBench, name: str, count: int, *, relay: bool = True) -> None:
    bench.send_all([bench.transfer(f"{name}-{n}", "external:bank", "users:1", 1) for n in range(count)])
    bench.post()
    if relay:
        bench.relay_all()
        # Kafka confirms a commit before it writes the markers that end the transaction on each partition (KIP-98).
        eventually(lambda: not any(lane.open_next_seq for lane in ends(bench).values()), "the transaction has ended")


def ends(bench: PostingBench, lanes: Iterable[int] = (0, 1)) -> dict[int, Published]:
    return read_last_published(bench.kafka, bench.topics.journal, lanes)


def test_a_new_ledger_and_a_relay_that_lags_are_fine(proving: ProvingBench) -> None:
    assert ends(proving) == {0: Published(), 1: Published()}
    assert proving.take_over() == {0: 0, 1: 0}
    post(proving, "first", 3)
    head = proving.stands(0)[0]["head"]
    assert ends(proving) == {0: Published(3, head), 1: Published(0, GENESIS_HASH)}
    post(proving, "second", 2, relay=False)
    assert ends(proving)[0] == Published(3, head)
    assert proving.take_over() == {0: 5, 1: 0}


def test_an_old_copy_is_not_posted_to(proving: ProvingBench, old_copy: PostingBench) -> None:
    assert old_copy.take_over() == {0: 3, 1: 0}, "it is whole as long as nothing was published past it"
    post(proving, "after", 2)
    with pytest.raises(JournalAhead, match=r"lane 0 up to seq 5, but this ledger ends at 3.*ledgerline replay --into"):
        old_copy.take_over()
    assert old_copy.take_over([1]) == {1: 0}, "each lane is judged by itself"


def test_the_worker_ends_with_that_sentence(proving: ProvingBench, old_copy: PostingBench, tmp_path: Path) -> None:
    post(proving, "after", 2)
    with ServiceProcess("posting", old_copy.settings, tmp_path) as worker:
        assert worker.ended() == 1
        assert "run `ledgerline replay --into` it before posting goes on" in worker.log()
        assert "Traceback" not in worker.log().splitlines()[-1]
    assert len(old_copy.fates()) == 3


def test_another_record_in_the_same_place_is_refused(proving: ProvingBench, old_copy: PostingBench) -> None:
    """A worker without the guard posts the same offsets again on the old copy, so their hashes differ."""
    post(proving, "after", 2)
    unguarded = old_copy.new_poster(published=lambda lanes: dict.fromkeys(lanes, Published()))
    assert old_copy.post((0,), unguarded) == ["posted", "posted"]
    with pytest.raises(JournalAhead, match="lane 0 with another hash at seq 4"):
        old_copy.take_over()
    unguarded = old_copy.new_poster(published=lambda lanes: dict.fromkeys(lanes, Published()))
    old_copy.send(old_copy.transfer("more", "external:bank", "users:1", 1))
    old_copy.post((0,), unguarded)
    with pytest.raises(JournalAhead, match="lane 0 with another hash at seq 4"):
        old_copy.take_over()  # the copy is past the published end, but with other records


def test_a_lane_that_is_moved_while_the_ends_are_read_is_no_old_copy(proving: ProvingBench) -> None:
    """Another worker posts, and the relay relays, between any two reads of this worker."""
    post(proving, "before", 1)

    def meanwhile(lanes: Iterable[int]) -> dict[int, Published]:
        post(proving, "during", 2)
        return ends(proving, lanes)

    assert proving.new_poster(published=meanwhile).positions(proving.topics.intents, [0, 1]) == {0: 3, 1: 0}


def transaction(bench: PostingBench) -> Producer:
    producer = Producer(
        {**bench.kafka.make_client_options(), "transactional.id": f"{bench.topics.prefix}other", "linger.ms": 0}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    return producer


def record(bench: ProvingBench, **changes: Any) -> bytes:
    (last,) = [row for row in bench.records(0) if row["seq"] == 0]
    ours = {**last, "legs": [], "metadata": {}, "intent_id": None, "reverses": None}
    return bench.encode_journal({**ours, **changes})


def test_records_that_are_not_committed_do_not_count_unless_they_may_be(proving: ProvingBench) -> None:
    """There are many such records, so that the last committed one lies far before the partition's end."""
    post(proving, "before", 2)
    head = proving.stands(0)[0]["head"]
    for abort in (True, False):
        producer = transaction(proving)
        for seq in range(2, 300):
            producer.produce(proving.topics.journal, record(proving, seq=seq), partition=0)
        assert producer.flush(30) == 0
        assert ends(proving)[0] == Published(2, head, 300)
        with pytest.raises(JournalUnsettled, match="lane 0"):
            proving.poster.positions(proving.topics.intents, [0])
        if abort:
            producer.abort_transaction(30)
            eventually(lambda: ends(proving)[0] == Published(2, head), "the transaction is seen to be aborted")
            assert proving.take_over([0]) == {0: 2}
        else:
            producer.commit_transaction(30)
            eventually(lambda: ends(proving)[0].next_seq == 300, "the transaction is seen to be committed")
            with pytest.raises(JournalAhead):
                proving.poster.positions(proving.topics.intents, [0])


def test_every_version_of_a_record_begins_with_what_the_guard_reads() -> None:
    fields = [(field["name"], field["type"]) for field in parse_own_schema("ledger.journal-value")["fields"]]
    assert fields[:4] == [(field["name"], field["type"]) for field in RECORD_START["fields"]]


def test_a_relay_at_work_is_not_waited_for(proving: ProvingBench) -> None:
    """The relay's open transaction holds only records that the ledger has."""
    post(proving, "before", 4)
    producer = transaction(proving)
    producer.produce(proving.topics.journal, record(proving, seq=3), partition=0)
    assert producer.flush(30) == 0
    assert ends(proving)[0].open_next_seq == 4
    assert proving.take_over([0]) == {0: 4}
    producer.abort_transaction(30)
