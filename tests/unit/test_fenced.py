"""The runner between Faust and a handler: which records of a fetch it hands on, and what it does if a batch fails."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from faust.types import TP

from domain.errors import Outage, Unready
from runtime.kafka import Kafka
from streams.engine import Fetch, FetchedPart
from streams.fenced import AgentOptions, FenceLost, PartitionBatch, Place, _Runner
from streams.metrics import AgentMetrics

TOPIC = "payments.intents"
LANE_0, LANE_1 = TP(TOPIC, 0), TP(TOPIC, 1)
OPTIONS = AgentOptions("test", Kafka("127.0.0.1:9"), (TOPIC,), "group")


def fetched(start: int, end: int, *offsets: int, tp: TP = LANE_0) -> Fetch:
    """Return a fetch of one partition from `start` to `end`. Without `offsets` it has a record at each offset."""
    records = [
        SimpleNamespace(
            topic=tp.topic, partition=tp.partition, offset=offset, timestamp_ms=0, key=None, value=b"", headers=()
        )
        for offset in offsets or range(start, end)
    ]
    return Fetch({tp: FetchedPart(start, end, records)})


@dataclass
class Handler:
    """A handler that keeps positions and notes its batches. Each batch first runs the next of `troubles`."""

    stands: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    troubles: list[Callable[["Handler"], None]] = field(default_factory=list)
    handled: list[tuple[int, int, list[int], int]] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        assert topic == TOPIC
        self.asked.append(sorted(partitions))
        return {number: self.stands[number] for number in self.asked[-1]}

    def handle(self, batch: list[PartitionBatch]) -> None:
        if self.troubles:
            self.troubles.pop(0)(self)
        for part in batch:
            offsets = [message.offset for message in part.messages]
            self.handled.append((part.partition, part.expected_offset, offsets, part.end_offset))
            self.stands[part.partition] = part.end_offset

    def idle(self) -> None:
        """Do nothing."""


def failing(error: Exception, committed: int | None = None) -> Callable[[Handler], None]:
    """Return a trouble that raises the error. If `committed` is given, lane 0 commits up to that offset first."""

    def trouble(handler: Handler) -> None:
        if committed is not None:
            handler.stands[0] = committed
        raise error

    return trouble


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def runner(handler: Handler) -> Iterator[_Runner]:
    made = _Runner(handler, OPTIONS, AgentMetrics("test"))
    yield made
    asyncio.run(made.close())


def take_over(runner: _Runner, *assigned: TP) -> dict[TP, int]:
    return asyncio.run(runner.positions(assigned))


def process(runner: _Runner, fetch: Fetch) -> bool:
    return asyncio.run(runner.process(fetch))


@pytest.mark.parametrize(
    ("stands", "fetch", "handed"),
    [
        (0, fetched(0, 3), (0, 0, [0, 1, 2], 3)),
        (5, fetched(5, 7), (0, 5, [5, 6], 7)),
        # The store moved on after this fetch, so the runner drops the records that the store already has.
        (2, fetched(0, 4), (0, 2, [2, 3], 4)),
        (4, fetched(0, 4), None),
        (9, fetched(0, 4), None),
        # Transaction markers occupy offsets.
        (0, fetched(0, 6, 0, 1, 4), (0, 0, [0, 1, 4], 6)),
        (3, fetched(0, 6, 0, 1, 4), (0, 3, [4], 6)),
        (5, fetched(0, 6, 0, 1, 4), (0, 5, [], 6)),
    ],
)
def test_what_of_a_fetch_is_handed_on(
    handler: Handler, runner: _Runner, stands: int, fetch: Fetch, handed: tuple[Any, ...] | None
) -> None:
    handler.stands[0] = stands
    take_over(runner, LANE_0)
    assert process(runner, fetch)
    assert handler.handled == ([handed] if handed else [])
    assert runner.expected == {LANE_0: handed[3] if handed else stands}


def test_what_was_fetched_past_the_store_asks_for_a_seek(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0, LANE_1)
    assert not process(runner, Fetch(fetched(3, 6).partitions | fetched(0, 2, tp=LANE_1).partitions))
    assert handler.handled == [(1, 0, [0, 1], 2)], "offsets 0 to 2 of lane 0 were never handed over"
    assert runner.expected == {LANE_0: 0, LANE_1: 2}
    assert process(runner, fetched(0, 6))


def test_a_store_that_stands_before_the_fetch_after_an_outage_asks_for_a_seek(
    handler: Handler, runner: _Runner
) -> None:
    """A handler may move its positions later than the engine does."""
    handler.stands[0] = 3
    take_over(runner, LANE_0)
    handler.troubles.append(failing(psycopg.OperationalError("away"), committed=1))
    assert not process(runner, fetched(3, 6))
    assert handler.handled == []
    assert runner.expected == {LANE_0: 1}


def test_only_assigned_partitions_are_handed_on(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    both = Fetch(fetched(0, 2, tp=LANE_1).partitions | fetched(0, 3).partitions)
    assert process(runner, both)
    assert handler.handled == [(0, 0, [0, 1, 2], 3)]
    take_over(runner, LANE_1)
    assert runner.expected == {LANE_1: 0}
    assert process(runner, fetched(3, 5))
    assert len(handler.handled) == 1


def test_partitions_of_a_fetch_come_in_order(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_1, LANE_0)
    process(runner, Fetch(fetched(0, 1, tp=LANE_1).partitions | fetched(0, 1).partitions))
    assert [part[0] for part in handler.handled] == [0, 1]


def test_taking_over_nothing_forgets_all(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    assert take_over(runner) == {}
    assert process(runner, fetched(0, 3))
    assert handler.handled == []


OUTAGES = (psycopg.OperationalError("gone"), psycopg.InterfaceError("closed"), psycopg.errors.DeadlockDetected("ring"))


@pytest.mark.parametrize("error", OUTAGES)
def test_an_outage_before_the_commit_is_tried_again(handler: Handler, runner: _Runner, error: Exception) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(error), failing(error)]
    assert process(runner, fetched(0, 3))
    assert handler.handled == [(0, 0, [0, 1, 2], 3)]
    assert handler.asked == [[0]] * 3, "the store is asked where it stands after each"


@pytest.mark.parametrize(("committed", "handed"), [(3, []), (2, [(0, 2, [2], 3)])])
def test_an_unknown_commit_is_settled_by_the_store(
    handler: Handler, runner: _Runner, committed: int, handed: list[Any]
) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(psycopg.OperationalError("died in the commit"), committed)]
    assert process(runner, fetched(0, 3))
    assert handler.handled == handed
    assert runner.expected == {LANE_0: 3}


def test_something_else_that_is_away_is_waited_out(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(Outage("The registry is away."))]
    assert process(runner, fetched(0, 3))
    assert handler.handled == [(0, 0, [0, 1, 2], 3)]


def test_a_lost_fence_asks_for_a_seek_and_moves_nothing(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(FenceLost("lane 0 stands at 7, not at 0"))]
    assert not process(runner, fetched(0, 3))
    assert runner.expected == {LANE_0: 0}
    handler.stands[0] = 7
    assert take_over(runner, LANE_0) == {LANE_0: 7}
    assert process(runner, fetched(3, 6)), "what was fetched before the seek, and is posted, is dropped"
    assert process(runner, fetched(7, 9))
    assert handler.handled == [(0, 7, [7, 8], 9)]


def test_a_bug_is_no_outage(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(AttributeError("a bug"))]
    with pytest.raises(AttributeError, match="a bug"):
        process(runner, fetched(0, 3))
    assert runner.expected == {LANE_0: 0}


def test_a_stop_ends_the_waiting(handler: Handler, runner: _Runner) -> None:
    take_over(runner, LANE_0)
    handler.troubles = [failing(psycopg.OperationalError("gone"))] * 50
    runner.stopping.set()
    assert process(runner, fetched(0, 3)), "nothing is left to seek"
    assert handler.handled == []
    assert runner.expected == {LANE_0: 0}


@pytest.mark.parametrize(
    ("error", "away", "is_stall"),
    [
        # Postgres does not answer a new connection either, so killing this process would not help.
        (Outage("Postgres is away."), "Postgres", False),
        # All parts answer new connections: a client of this process is stuck, and a new process gets new clients.
        (Outage("Kafka is away."), None, True),
        # The part answered and said what it waits for.
        (Unready("A transaction is open."), None, False),
        (psycopg.errors.DiskFull("the disk is full"), None, False),
    ],
)
def test_waiting_is_no_stall_if_a_part_is_really_away(
    handler: Handler, error: Exception, away: str | None, is_stall: bool
) -> None:
    options = replace(OPTIONS, stall_seconds_max=0.0)
    runner = _Runner(handler, options, AgentMetrics("test"), find_away=lambda: away)
    take_over(runner, LANE_0)
    before = runner.progressed_at
    seen: list[float] = []

    def trouble(_: Handler) -> None:
        seen.append(runner.progressed_at)
        raise error

    handler.troubles = [trouble, trouble]
    assert process(runner, fetched(0, 1))
    assert seen[0] == before
    assert (seen[1] == before) == is_stall
    asyncio.run(runner.close())


def test_a_call_that_was_silent_for_long_counts_before_the_parts_are_asked(handler: Handler) -> None:
    """A statement without an answer takes 30 seconds, so another wait of a quarter of the term would come too late."""
    asked: list[None] = []
    runner = _Runner(handler, OPTIONS, AgentMetrics("test"), find_away=lambda: asked.append(None))
    take_over(runner, LANE_0)
    runner.progressed_at -= OPTIONS.stall_seconds_max / 2
    handler.troubles = [failing(Outage("Postgres did not answer for 30 seconds"))]
    assert process(runner, fetched(0, 1))
    assert asked == [None]
    asyncio.run(runner.close())


def test_the_parts_are_not_asked_at_once(handler: Handler) -> None:
    """Most outages end before the first quarter of the watchdog's term."""
    asked: list[None] = []
    runner = _Runner(handler, OPTIONS, AgentMetrics("test"), find_away=lambda: asked.append(None))
    take_over(runner, LANE_0)
    handler.troubles = [failing(Outage("Kafka is away."))] * 2
    assert process(runner, fetched(0, 1))
    assert asked == []
    asyncio.run(runner.close())


def test_the_same_partition_of_two_topics_is_two_places() -> None:
    """Each topic is asked for by itself. One batch has parts of both, and each part moves its own position."""
    stands = {Place("a", 0): 5, Place("b", 0): 0, Place("b", 1): 7}
    asked: list[tuple[str, list[int]]] = []
    batches: list[list[tuple[str, int, int, int]]] = []

    class Keeper(Handler):
        def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
            asked.append((topic, sorted(partitions)))
            return {number: stands[Place(topic, number)] for number in asked[-1][1]}

        def handle(self, batch: list[PartitionBatch]) -> None:
            if self.troubles:
                self.troubles.pop(0)(self)
            batches.append([(part.topic, part.partition, len(part.messages), part.end_offset) for part in batch])

    handler = Keeper()
    options = replace(OPTIONS, topics=("a", "b", "missing"))
    runner = _Runner(handler, options, AgentMetrics("test"))
    a_0, b_0, b_1 = TP("a", 0), TP("b", 0), TP("b", 1)
    assert take_over(runner, b_1, a_0, b_0, TP("another agent's", 0)) == {a_0: 5, b_0: 0, b_1: 7}
    assert asked == [("a", [0]), ("b", [0, 1])], "a topic without partitions is not asked for"
    both = fetched(5, 8, tp=a_0).partitions | fetched(0, 2, tp=b_0).partitions
    assert process(runner, Fetch(both | {b_1: FetchedPart(7, 9, [])}))
    assert batches == [[("a", 0, 3, 8), ("b", 0, 2, 2), ("b", 1, 0, 9)]]
    assert runner.stands() == {Place("a", 0): 8, Place("b", 0): 2, Place("b", 1): 9}
    assert runner.get_first_in_hand() == {Place("a", 0): (5, 0), Place("b", 0): (0, 0)}
    # A fence that is lost in one topic drops the whole batch: its parts commit together or not at all.
    handler.troubles = [failing(FenceLost("partition 0 of b stands elsewhere"))]
    assert not process(runner, Fetch(fetched(8, 9, tp=a_0).partitions | fetched(2, 3, tp=b_0).partitions))
    assert runner.stands() == {Place("a", 0): 8, Place("b", 0): 2, Place("b", 1): 9}
    asyncio.run(runner.close())


@pytest.mark.parametrize("topics", [(), ("a", "a")])
def test_topics_are_given_each_once(topics: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="needs topics, each once"):
        replace(OPTIONS, topics=topics)


def test_a_partition_is_named_by_its_number_unless_topics_are_several() -> None:
    assert OPTIONS.name_place(Place(TOPIC, 3)) == "3"
    assert replace(OPTIONS, topics=("a", "b")).name_place(Place("b", 3)) == "b/3"
