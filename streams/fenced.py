"""The fenced consumer: a Faust agent whose offsets live in its own store, and move in its own transactions.

Faust brings partitions, hands over what was fetched, and follows rebalances. What it thinks is committed never
counts: on each assignment the consumer seeks to what the agent's store says, and each batch carries the offset at
which the agent believes the store to stand, for a compare-and-set (docs/decisions/0001-whole-fetches-through-faust.md).

A whole fetch travels through Faust as one event, since Faust's cost is by the event: 20 to 50 microseconds each.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import CrashingSupervisor
from mode.utils.objects import cached_property

from db.connections import TRANSIENT
from domain.errors import LedgerlineError, Outage
from streams.metrics import AgentMetrics, serve_metrics

logger: Final = structlog.get_logger(__name__)

BACKOFF_SECONDS_MAX: Final = 5.0
COMMIT_SECONDS: Final = 1.0
# aiokafka has one request to a broker at a time: while it waits there for partitions that have nothing, those that
# have something wait too. Faust lets it wait for 1.5 seconds.
FETCH_WAIT_MS: Final = 50
METADATA_AGE_MS_MAX: Final = 10_000


class Message(NamedTuple):
    """One record of a topic, as it came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class PartitionBatch(NamedTuple):
    """What was fetched of one partition: offsets ascending, none below `expected_offset`."""

    topic: str
    partition: int
    expected_offset: int
    """Where the agent believes its store to stand."""
    messages: list[Any]
    """Message, or what the agent's `prepare` made of each."""
    end_offset: int
    """The next offset to fetch; past the last message's, as transaction markers occupy offsets too."""


class FenceLost(Exception):
    """The store stands elsewhere than the batch expects: another worker has the partition, or had it meanwhile."""


class TopicBegunAnew(LedgerlineError):
    """A partition goes back behind what was read of it: its offsets no longer mean what the store means by them."""


class BatchHandler(Protocol):
    """What an agent is; its methods are called from one thread, one at a time."""

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The next offset to read of each partition, from the agent's own store."""

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Process and commit in one transaction that also moves the positions; FenceLost where they moved meanwhile.

        Raises one of `TRANSIENT` or an Outage where something is away: the batch is then tried again.
        """

    def idle(self) -> None:
        """Called about once a second between batches; returns within a second."""


@dataclass(frozen=True)
class AgentOptions:
    """How an agent reads; `records_max` is the most records in one batch."""

    name: str
    bootstrap: str
    topic: str
    group: str
    records_max: int = 2000
    read_committed: bool = False
    prepare: Callable[[Message], Any] = lambda message: message
    """Called for each message in the consumer's thread, while the batch before is in the handler's hands: pure work
    only, that cannot fail. What it returns has the message's `offset`."""
    stall_seconds_max: float = 60.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    log_level: str = "INFO"


class _Fetch(NamedTuple):
    """What one look at the broker brought, of several partitions."""

    partitions: dict[TP, tuple[int, int, list[Any]]]
    """(start, end, messages as prepared) of each partition."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Knows where each fetch began, so that what was fetched before a seek can be told from what came after."""

    app: "FencedApp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._next: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        if self.app.options.read_committed:
            # Faust gives it only to its own exactly-once mode, which loses and doubles (faust#323, #517).
            consumer._isolation_level = "read_committed"
        return consumer

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        """Tell Kafka where the store stands; whether that worked.

        It is for lag tools only, so no failure may end the worker, as it does in Faust: neither a broker that is away
        nor a rebalance that has just taken everything.
        """
        assigned = self.assignment()
        theirs = {
            driver.ensure_aiokafka_TP(tp): driver.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        try:
            if theirs:
                await self._ensure_consumer().commit(theirs)
        except KafkaError as error:
            logger.debug("offsets were not committed to Kafka", agent=self.app.options.name, cause=repr(error))
            return False
        return True

    async def _seek_wait(self, consumer: Any, partitions: dict[TP, int]) -> None:
        await super()._seek_wait(consumer, partitions)
        self._next.update({TP(*tp): offset for tp, offset in partitions.items()})

    async def _fetch_records(self, consumer: Any, *args: Any, **options: Any) -> dict[Any, list[Any]]:
        fetched = await super()._fetch_records(consumer, *args, **options)
        assignment = consumer._subscription.subscription and consumer._subscription.subscription.assignment
        partitions = {}
        for tp, records in (fetched or {}).items():
            state = assignment and assignment.state_value(tp)
            if not records or state is None or not state.has_valid_position:
                continue  # revoked meanwhile
            start = self._next.get(TP(*tp), records[0].offset)
            if records[0].offset < start:
                raise TopicBegunAnew(
                    f"The topic {tp.topic} was read up to {start} in partition {tp.partition} and now gives offset"
                    f" {records[0].offset}: it was deleted and made again; restore the old one."
                )
            self._next[TP(*tp)] = state.position
            prepare = self.app.options.prepare
            messages = [
                prepare(Message(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers))
                for r in records
            ]
            partitions[TP(*tp)] = (start, state.position, messages)
        for tp in assignment.tps if assignment else ():
            # A fetch of nothing but transaction markers brings no records, and moves the position all the same: an
            # agent that was not told would seem to lag by them for ever, and its watchdog would end it.
            state, start = assignment.state_value(tp), self._next.get(TP(*tp))
            if start is not None and TP(*tp) not in partitions and state is not None and state.has_valid_position:
                self._next[TP(*tp)] = state.position
                if state.position > start:
                    partitions[TP(*tp)] = (start, state.position, [])
        return {next(iter(partitions)): [_Fetch(partitions)]} if partitions else {}


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """Seeks to what the agent's store says, after Faust has sought to what Kafka says."""

    app: "FencedApp"

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        positions = await self.app.runner.positions(self.assignment())
        if positions:
            await self.seek_wait(positions)
            self._committed_offset.update(positions)
            # Records are one event a fetch here, so Faust must not judge by offsets what was seen.
            self._read_offset.update(dict.fromkeys(positions))

    def on_buffer_full(self, tp: TP) -> None:
        """A full queue is back-pressure enough: Faust would also stop the one partition that a fetch goes under."""

    def on_buffer_drop(self, tp: TP) -> None:
        """As nothing was stopped, nothing is resumed."""

    def _to_message(self, tp: TP, fetch: _Fetch) -> ConsumerMessage:
        start = next(iter(fetch.partitions.values()))[0]
        return ConsumerMessage(
            tp.topic, tp.partition, start, 0.0, 0, [], None, fetch, None, 0, 0, TP(*tp),
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class FencedApp(faust.App):  # type: ignore[misc]
    """A Faust app whose consumer is fenced; `runner` stands between it and the agent's handler."""

    def __init__(self, options: AgentOptions, runner: "_Runner") -> None:
        self.options = options
        self.runner = runner
        super().__init__(
            options.group,
            broker=f"kafka://{options.bootstrap}",
            loop=None,
            autodiscover=False,
            agent_supervisor=CrashingSupervisor,
            broker_max_poll_records=options.records_max,
            consumer_auto_offset_reset="earliest",
            key_serializer="raw",
            value_serializer="raw",
            stream_buffer_maxsize=1,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            # A worker that is gone gives its lanes up after this; one that is slow keeps them, as Faust's
            # consumer thread goes on beating while the handler works.
            broker_session_timeout=10.0,
            # A topic that was away for a moment is found again after this, not after 5 minutes.
            consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
            broker_heartbeat_interval=2.0,
        )

    def end_of(self, tp: TP) -> int:
        """The partition's next offset, as far as is known; 0 where a rebalance has just taken it away."""
        try:
            return self.consumer.highwater(tp) or 0
        except (AssertionError, AttributeError):  # so aiokafka says that it is not assigned
            return 0

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    @cached_property  # type: ignore[untyped-decorator]
    def fetches(self) -> Any:
        """The channel of whole fetches; nothing on it is ever acknowledged."""
        return self.topic(
            self.options.topic,
            key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False,
        )  # fmt: skip


class _Runner:
    """Calls the handler from one thread, keeps what it expects of the store, and waits outages out."""

    def __init__(self, handler: BatchHandler, options: AgentOptions, metrics: AgentMetrics) -> None:
        self._handler = handler
        self._options = options
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=options.name)
        self._expected: dict[TP, int] = {}
        self.stopping = threading.Event()
        self.progressed_at = time.monotonic()

    @property
    def expected(self) -> dict[TP, int]:
        """The next offset to process of each partition that this worker has."""
        return dict(self._expected)

    async def positions(self, assigned: Iterable[TP]) -> dict[TP, int]:
        """Take over the assigned partitions at the offsets of the store, once a batch under way is through."""
        positions: dict[TP, int] = await self._call(self._take_over, [TP(*tp) for tp in assigned])
        return positions

    async def process(self, fetch: _Fetch) -> bool:
        """Process a fetch; False where the fence was lost and the consumer must seek again."""
        processed: bool = await self._call(self._process, fetch)
        return processed

    async def idle(self) -> None:
        """Let the handler do its chores."""
        await self._call(self._patiently, self._handler.idle)

    async def close(self) -> None:
        """End the thread after the batch under way."""
        self.stopping.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    async def _call(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _patiently(self, function: Any, *arguments: Any) -> Any:
        """Call, and call again with growing pauses while what it needs is away; a stop ends the waiting."""
        pause_seconds = 0.05
        while True:
            try:
                return function(*arguments)
            except (*TRANSIENT, Outage) as error:
                if self.stopping.is_set():
                    raise
                self._metrics.retries.inc()
                # The watchdog is for an engine that is stuck: a restart brings back nothing that is away.
                self.progressed_at = time.monotonic()
                logger.warning("waiting", agent=self._options.name, cause=str(error).strip(), seconds=pause_seconds)
                self.stopping.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)

    def _take_over(self, assigned: list[TP]) -> dict[TP, int]:
        partitions = [tp.partition for tp in assigned if tp.topic == self._options.topic]
        found = self._patiently(self._handler.positions, self._options.topic, partitions) if partitions else {}
        self._expected = {TP(self._options.topic, partition): offset for partition, offset in found.items()}
        self.progressed_at = time.monotonic()
        return self.expected

    def _process(self, fetch: _Fetch) -> bool:
        try:
            return bool(self._patiently(self._try_once, fetch))
        except FenceLost as error:
            self._metrics.fences_lost.inc()
            logger.warning("fence lost", agent=self._options.name, cause=str(error))
            return False

    def _try_once(self, fetch: _Fetch) -> bool:
        batch = self._batch(fetch)
        if not batch:
            return True
        try:
            with self._metrics.batch_seconds.time():
                self._handler.handle(batch)
        except TRANSIENT:
            # Whether the commit came through is unknown: the store says.
            self._take_over(list(self._expected))
            raise
        for part in batch:
            self._expected[TP(part.topic, part.partition)] = part.end_offset
        self._metrics.records.inc(sum(len(part.messages) for part in batch))
        self.progressed_at = time.monotonic()
        return True

    def _batch(self, fetch: _Fetch) -> list[PartitionBatch]:
        """What of a fetch is still to be processed; what was fetched before a seek and lies past it is dropped."""
        batch = []
        for tp, (start, end, messages) in sorted(fetch.partitions.items()):
            expected = self._expected.get(tp)
            if expected is None or start > expected or end <= expected:
                continue
            fresh = messages if start == expected else [message for message in messages if message.offset >= expected]
            batch.append(PartitionBatch(tp.topic, tp.partition, expected, fresh, end))
        return batch


def make_app(handler: BatchHandler, options: AgentOptions, metrics: AgentMetrics) -> FencedApp:
    """The Faust app with its one agent, its chores and its watchdog."""
    runner = _Runner(handler, options, metrics)
    app = FencedApp(options, runner)
    last_commit = 0.0

    async def tell_kafka() -> None:
        """Commit the store's offsets to Kafka, for lag tools only; a failure harms nothing."""
        nonlocal last_commit
        if time.monotonic() - last_commit < COMMIT_SECONDS or not runner.expected:
            return
        last_commit = time.monotonic()
        await app.consumer._commit(runner.expected)

    @app.agent(app.fetches, name=options.name)  # type: ignore[untyped-decorator]
    async def agent(fetches: Any) -> None:
        async for fetch in fetches:
            if not await runner.process(fetch):
                await app.consumer.perform_seek()
            await tell_kafka()

    @app.timer(1.0, on_leader=False)  # type: ignore[untyped-decorator]
    async def chores() -> None:
        assigned = app.consumer.assignment()
        lags = {tp: max(app.end_of(tp) - offset, 0) for tp, offset in runner.expected.items() if tp in assigned}
        for tp, lag in lags.items():
            metrics.lag.labels(str(tp.partition)).set(lag)
        metrics.partitions.set(len(lags))
        stalled_seconds = time.monotonic() - runner.progressed_at
        if not any(lags.values()):
            runner.progressed_at = time.monotonic()
        elif stalled_seconds > options.stall_seconds_max:
            # Stuck consumers are a known fault of the engine (faust#523, #532, #629): to be restarted is the cure.
            logger.error("stalled", agent=options.name, seconds=stalled_seconds, lags=sum(lags.values()))
            os.kill(os.getpid(), signal.SIGKILL)
        await runner.idle()
        await tell_kafka()

    return app


def run_agent(handler: BatchHandler, options: AgentOptions) -> None:
    """Run the agent, and serve its metrics, until SIGTERM or SIGINT; the batch under way is finished first.

    Blocks; call it from the main thread.
    """
    # A batch makes some hundred thousand objects and no cycles: with the default thresholds the collector takes a
    # fifth of a worker's time. What is there now lives as long as the process.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    # The consumer's thread prepares one batch while the handler's waits for Postgres with another: when an answer
    # comes, the handler is to have the interpreter soon, not after the default 5 ms.
    sys.setswitchinterval(0.0005)
    app = make_app(handler, options, AgentMetrics(options.name))
    worker = faust.Worker(
        app, loglevel=options.log_level, override_logging=False, redirect_stdouts=False, quiet=True
    )  # fmt: skip
    assigned = threading.Event()

    @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
    async def on_partitions_assigned(*_: Any, **__: Any) -> None:
        assigned.set()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def on_before_shutdown(*_: Any, **__: Any) -> None:
        app.runner.stopping.set()

    serve_metrics(
        options.metrics_host,
        options.metrics_port,
        lambda: None if assigned.is_set() else "Kafka has not yet assigned partitions.",
    )
    try:
        worker.execute_from_commandline()
    except SystemExit:
        # Faust ends with a code alone; what people can mend is told in its sentence.
        if isinstance(worker.crash_reason, LedgerlineError):
            raise worker.crash_reason from None
        raise
