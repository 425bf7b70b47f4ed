"""The consumer thread knows where each fetch began, even if seeks and rebalances came in between."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.engine import Fetch, FetchedPart, ReadAhead, TopicBegunAnew, _Consumer, _ConsumerThread

LANE = TP("payments.intents", 0)


class Broker:
    """Stands in for aiokafka's consumer: one partition, its position, and the records of the next fetch."""

    def __init__(self, position: int = 0) -> None:
        self.state = SimpleNamespace(position=position, has_valid_position=True)
        self.records: list[Any] = []
        self.sought, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.reassign()

    def assignment(self) -> set[TP]:
        """Return the assigned partitions, as aiokafka's consumer does."""
        return set(self._subscription.subscription.assignment.tps)

    def revoke(self) -> None:
        """Take the partition, as a rebalance does."""
        self._subscription.subscription.assignment.tps.clear()

    def reassign(self) -> None:
        """Give the same partition again, as a rebalance does."""
        assignment = SimpleNamespace(tps=[LANE], state_value=lambda _: self.state)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    def holds(self, first: int, end: int) -> None:
        """Make the next fetch return the offsets from `first` to before `end`."""
        self.records = [
            SimpleNamespace(
                topic=LANE.topic, partition=0, offset=offset, timestamp=0, key=None, value=b"", headers=()
            )
            for offset in range(first, end)
        ]  # fmt: skip
        self.state.position = end


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> _ConsumerThread:
    """Return the consumer thread without its loop. Its fetches and seeks use the stand-in broker."""

    async def fetch(_: Any, consumer: Broker, *__: Any, **___: Any) -> dict[TP, list[Any]]:
        records, consumer.records = consumer.records, []
        return {LANE: records} if records else {}

    async def seek(_: Any, consumer: Broker, partitions: dict[TP, int]) -> None:
        assert set(partitions) <= consumer.assignment(), "aiokafka raises IllegalStateError"
        consumer.state.position = partitions[LANE]
        consumer.sought.set()
        await consumer.answers.wait()

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_seek_wait", seek)
    made: _ConsumerThread = object.__new__(_ConsumerThread)
    made.app = SimpleNamespace(runner=SimpleNamespace(ahead=None), options=SimpleNamespace(name="test", wants=None))
    made._assignment, made._next = None, {}
    return made


async def fetched(thread: _ConsumerThread, broker: Broker) -> tuple[int, int, list[int]] | None:
    """Return the start, the end and the record offsets of one fetch, or None if the fetch brings nothing."""
    found = await thread._fetch_records(broker)
    if not found:
        return None
    (records,) = found.values()
    (fetch,) = records
    assert isinstance(fetch, Fetch)
    start, end, messages = fetch.partitions[LANE]
    return start, end, [message.offset for message in messages]


def test_what_waits_is_read_ahead_in_place_and_once() -> None:
    seen: list[int] = []

    def prepare(offset: int) -> str:
        seen.append(offset)
        return f"read {offset}"

    ahead = ReadAhead(prepare)  # type: ignore[arg-type]
    dropped, taken, waiting = (Fetch({LANE: FetchedPart(start, start + 2, [start, start + 1])}) for start in (0, 2, 4))
    for fetch in (dropped, taken, waiting):
        ahead.add(fetch)
    ahead.take(taken)  # a seek dropped the fetch before this one, so neither is read ahead any more
    ahead.read()
    ahead.read()
    assert seen == [4, 5]
    assert waiting.partitions[LANE] == (4, 6, ["read 4", "read 5"])
    assert taken.partitions[LANE] == (2, 4, [2, 3])
    ahead.take(waiting)  # this fetch was read ahead already and no longer waits
    ahead.take(dropped)
    late = Fetch({LANE: FetchedPart(6, 7, [6])})
    ahead.add(late)
    ahead.take(waiting)
    ahead.read()
    assert late.partitions[LANE] == (6, 7, ["read 6"])


async def test_fetches_follow_one_another(thread: _ConsumerThread) -> None:
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 5})
    assert await fetched(thread, broker) is None
    broker.holds(5, 8)
    assert await fetched(thread, broker) == (5, 8, [5, 6, 7])
    broker.holds(9, 10)  # a transaction marker has offset 8
    assert await fetched(thread, broker) == (8, 10, [9])
    broker.state.position = 12  # two more transaction markers and no record
    assert await fetched(thread, broker) == (10, 12, [])
    assert await fetched(thread, broker) is None


async def test_each_fetch_is_told_to_who_reads_ahead(thread: _ConsumerThread) -> None:
    read: list[int] = []
    thread.app.runner.ahead = ReadAhead(lambda message: read.append(message.offset))
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 5})
    broker.holds(5, 7)
    await thread._fetch_records(broker)
    thread.app.runner.ahead.read()
    assert read == [5, 6]


async def test_a_partition_that_was_taken_meanwhile_is_not_sought(thread: _ConsumerThread) -> None:
    """aiokafka raises IllegalStateError for such a seek, which ended a worker after Kafka had stood still."""
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 5, TP("payments.intents", 1): 7})
    assert thread._find_next(broker) == {LANE: 5}
    assert broker.state.position == 5


async def test_a_partition_that_is_taken_while_it_is_sought_ends_no_worker(
    thread: _ConsumerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seek(_: Any, consumer: Broker, __: dict[TP, int]) -> None:
        consumer.revoke()
        raise IllegalStateError("No current assignment for partition")

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_seek_wait", seek)
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 5})
    monkeypatch.setattr(Broker, "revoke", lambda _: None)
    with pytest.raises(IllegalStateError):
        await thread._seek_wait(Broker(), {LANE: 5})


async def test_a_fetch_that_comes_while_a_seek_is_under_way_begins_where_it_was_sought(thread: _ConsumerThread) -> None:
    """Otherwise the offsets between the old and the new position would seem to be lost."""
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 10})
    broker.sought.clear()
    broker.answers.clear()
    seeking = asyncio.create_task(thread._seek_wait(broker, {LANE: 34}))
    await broker.sought.wait()
    broker.holds(34, 36)
    assert await fetched(thread, broker) == (34, 36, [34, 35])
    broker.answers.set()
    await seeking
    await thread._seek_wait(broker, {LANE: 10})
    broker.holds(10, 12)
    assert await fetched(thread, broker) == (10, 12, [10, 11])


async def test_the_store_alone_says_where_to_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's committed offset lags by a second, and a fetch from there would look like a recreated topic."""
    sought: list[dict[TP, int]] = []

    async def positions(assigned: set[TP]) -> dict[TP, int]:
        return dict.fromkeys(assigned, 10)

    async def seek_wait(_: Any, partitions: dict[TP, int]) -> None:
        sought.append(partitions)

    async def seek_to_committed(_: Any) -> dict[TP, int]:
        raise AssertionError("Kafka was asked")

    monkeypatch.setattr(_Consumer, "assignment", lambda _: {LANE})
    monkeypatch.setattr(_Consumer, "seek_wait", seek_wait)
    monkeypatch.setattr(_Consumer, "seek_to_committed", seek_to_committed)
    consumer: Any = object.__new__(_Consumer)
    consumer.app = SimpleNamespace(runner=SimpleNamespace(positions=positions))
    consumer._committed_offset, consumer._read_offset = {}, {LANE: 15}
    await consumer.perform_seek()
    assert (sought, consumer._committed_offset, consumer._read_offset) == ([{LANE: 10}], {LANE: 10}, {LANE: None})


@pytest.mark.parametrize("reassigning", [False, True])
async def test_nothing_is_committed_while_the_group_reassigns(
    thread: _ConsumerThread, monkeypatch: pytest.MonkeyPatch, reassigning: bool
) -> None:
    """Kafka refuses such a commit for its old generation. The refusal makes all members rejoin, again and again."""
    committed: list[dict[TP, int]] = []

    async def commit(offsets: dict[Any, Any]) -> None:
        committed.append({TP(*tp): position.offset for tp, position in offsets.items()})

    consumer = SimpleNamespace(_subscription=SimpleNamespace(reassignment_in_progress=reassigning), commit=commit)
    monkeypatch.setattr(_ConsumerThread, "assignment", lambda _: {LANE})
    monkeypatch.setattr(_ConsumerThread, "_ensure_consumer", lambda _: consumer)
    assert await thread._commit({LANE: 7, TP("payments.intents", 1): 8}) is not reassigning
    assert committed == ([] if reassigning else [{LANE: 7}])


async def test_what_an_earlier_assignment_knew_is_forgotten(thread: _ConsumerThread) -> None:
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 3000})
    broker.reassign()
    broker.holds(34, 36)
    assert await fetched(thread, broker) == (34, 36, [34, 35])
    broker.reassign()
    await thread._seek_wait(broker, {LANE: 3000})
    assert await fetched(thread, broker) is None


async def test_a_topic_that_goes_back_is_another_topic(thread: _ConsumerThread) -> None:
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 50})
    broker.holds(0, 3)
    with pytest.raises(TopicBegunAnew, match="was read up to 50 in partition 0 and now gives offset 0"):
        await fetched(thread, broker)


@pytest.mark.parametrize("invalid", [True, False])
async def test_what_was_taken_away_meanwhile_is_left_out(thread: _ConsumerThread, invalid: bool) -> None:
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 0})
    broker.holds(0, 3)
    if invalid:
        broker.state.has_valid_position = False
    else:
        broker._subscription.subscription = None
    assert await fetched(thread, broker) is None


async def test_a_topic_that_goes_back_is_noticed_even_if_nothing_in_it_is_wanted(thread: _ConsumerThread) -> None:
    thread.app.options.wants = lambda _: False
    broker = Broker()
    await thread._seek_wait(broker, {LANE: 50})
    broker.state.position = 3  # aiokafka was reset to the start, and the filter left out the records 0 to 2
    with pytest.raises(TopicBegunAnew, match="was read up to 50 in partition 0 and now gives offset 3"):
        await fetched(thread, broker)
