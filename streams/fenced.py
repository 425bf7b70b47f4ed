"""The fenced consumer: a Faust agent whose offsets live in its own store, and move in its own transactions.

Faust assigns partitions, delivers fetches and follows rebalances. The offsets that Faust holds as committed are never
used. On each assignment the consumer seeks to the offsets of the agent's store. Each batch carries the offset that the
agent expects in the store, for a compare-and-set (docs/decisions/0001-whole-fetches-through-faust.md).

A whole fetch goes through Faust as one event, because each event costs Faust 20 to 50 microseconds.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import faust
import structlog
from faust.types import TP

from db.connections import TRANSIENT, is_told_by_server
from domain.errors import LedgerlineError, Outage, Unready
from runtime.watchdog import Watchdog
from streams.batches import AgentOptions, BatchHandler, FenceLost, Message, PartitionBatch, Place
from streams.beside import Beside
from streams.engine import FencedApp, Fetch, ReadAhead, TopicBegunAnew
from streams.idleness import Standing, find_work
from streams.lag import LagWatch
from streams.metrics import AgentMetrics, serve_metrics
from streams.tracing import follow_batch

logger: Final = structlog.get_logger(__name__)

OUTAGES: Final = (*TRANSIENT, Outage)
BACKOFF_SECONDS_MAX: Final = 5.0
COMMIT_SECONDS: Final = 1.0
# During an outage, the agent asks the parts over new connections this many times within the watchdog's term.
ASK_SHARE: Final = 4
# The handler's thread waits for the store about forty times a batch. After each wait it needs the interpreter lock. The
# consumer's thread, which unpacks the next fetch, may hold the lock for 5 ms more by Python's default. With less than
# 1 ms the two threads hand the lock over too often.
SWITCH_SECONDS: Final = 0.001

Result = TypeVar("Result")

__all__ = [
    "AgentOptions",
    "BatchHandler",
    "FenceLost",
    "Message",
    "PartitionBatch",
    "Place",
    "ReadAhead",
    "TopicBegunAnew",
    "run_agent",
]


class _Runner:
    """Calls the handler from one thread, keeps the offsets expected in the store, and waits until outages end."""

    def __init__(
        self,
        handler: BatchHandler,
        options: AgentOptions,
        metrics: AgentMetrics,
        ahead: ReadAhead | None = None,
        find_away: Callable[[], str | None] = lambda: "what is away is not asked",
    ) -> None:
        """`find_away` asks the parts over new connections, and names one that does not answer."""
        self.ahead = ahead
        self._find_away = find_away
        self._handler = handler
        self._options = options
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=options.name)
        self._expected: dict[TP, int] = {}
        self._in_hand: dict[Place, tuple[int, int]] = {}
        self._calls = 0
        self._leaves_out = False
        """Whether records are missing before those of the fetch under way."""
        self._missing: list[str] = []
        self.stopping = threading.Event()
        self.progressed_at = time.monotonic()
        self.work: tuple[float, str | None] = (time.monotonic(), None)
        """The time (time.monotonic()) of the last look for work, and the work that it found."""

    def explain(self) -> dict[str, Any]:
        """Return what the log should say about an agent that does nothing."""
        looked_at, work = self.work
        return {"work": work, "looked_seconds_ago": round(time.monotonic() - looked_at, 1), "stands": self.stands()}

    @property
    def expected(self) -> dict[TP, int]:
        """The next offset to process of each partition that this worker has."""
        return dict(self._expected)

    def stands(self) -> dict[Place, int]:
        """Return the next offset to process of each partition that this worker has."""
        return {Place(*tp): offset for tp, offset in self.expected.items()}

    def get_first_in_hand(self) -> dict[Place, tuple[int, int]]:
        """Return offset and timestamp in milliseconds of the first record of each partition in the batch under way."""
        return self._in_hand

    def note_missing(self, topics: list[str]) -> None:
        """Log which topics do not exist, whenever that changes; the agent goes on with the others."""
        before, self._missing = self._missing, topics
        if topics and topics != before:
            logger.warning("topics are missing", agent=self._options.name, topics=topics)
        elif before and not topics:
            logger.info("all topics exist", agent=self._options.name)

    @property
    def busy(self) -> bool:
        """Whether a call in the handler's thread is under way or waits; read in the event loop."""
        return self._calls > 0

    async def positions(self, assigned: Iterable[TP]) -> dict[TP, int]:
        """Take over the assigned partitions at the offsets of the store, after the batch under way has ended.

        Return no partitions if the worker was told to stop while it waited for the store.
        """
        return await self._call({}, self._take_over, [TP(*tp) for tp in assigned])

    async def process(self, fetch: Fetch) -> bool:
        """Process a fetch; return False if the fence was lost or records are missing, and the consumer must seek again.

        Return True too if the worker was told to stop while it waited: the next worker finds the fetch unprocessed.
        """
        return await self._call(True, self._process, fetch)

    async def idle(self) -> bool:
        """Let the handler do its chores; return False if the fence was lost and the consumer must seek again."""
        return await self._call(True, self._keep_fence, self._handler.idle)

    async def close(self) -> None:
        """End the thread after the batch under way."""
        self.stopping.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    async def _call(self, at_stop: Result, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call in the handler's thread; return `at_stop` if the worker was told to stop during an outage."""
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except OUTAGES as error:
            if not self.stopping.is_set():
                raise
            logger.warning("told to stop while waiting", agent=self._options.name, cause=str(error).strip())
            return at_stop
        finally:
            self._calls -= 1

    def _call_patiently(self, function: Any, *arguments: Any) -> Any:
        """Call, and retry with growing back-off while a part is away; raise the outage after an order to stop."""
        pause_seconds = 0.05
        # Count from the last progress, not from this call: a call that is silent for 30 seconds uses up half a term.
        ask_from = self.progressed_at + self._options.stall_seconds_max / ASK_SHARE
        while True:
            try:
                return function(*arguments)
            except OUTAGES as error:
                if self.stopping.is_set():
                    raise
                self._metrics.retries.inc()
                logger.warning("waiting", agent=self._options.name, cause=str(error).strip(), seconds=pause_seconds)
                is_told = isinstance(error, Unready) or is_told_by_server(error)
                if is_told or (time.monotonic() >= ask_from and self._is_something_away()):
                    # This counts as progress: the watchdog is for a stuck process, and a restart ends no outage.
                    self.progressed_at = time.monotonic()
                    ask_from = self.progressed_at + self._options.stall_seconds_max / ASK_SHARE
                self.stopping.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)

    def _is_something_away(self) -> bool:
        """Return whether a part does not answer a new connection either. If none is away, this process is at fault."""
        away = self._find_away()
        logger.warning("asked the parts", agent=self._options.name, away=away)
        return away is not None

    def _take_over(self, assigned: list[TP]) -> dict[TP, int]:
        expected = {}
        for topic in self._options.topics:
            partitions = [tp.partition for tp in assigned if tp.topic == topic]
            found = self._call_patiently(self._handler.positions, topic, partitions) if partitions else {}
            expected.update({TP(topic, partition): offset for partition, offset in found.items()})
        self._expected = expected
        self.progressed_at = time.monotonic()
        return self.expected

    def _process(self, fetch: Fetch) -> bool:
        if self.ahead is not None:
            self.ahead.take(fetch)
        self._leaves_out = False
        return self._keep_fence(self._try_once, fetch) and not self._leaves_out

    def _keep_fence(self, function: Any, *arguments: Any) -> bool:
        try:
            self._call_patiently(function, *arguments)
        except FenceLost as error:
            self._metrics.fences_lost.inc()
            logger.warning("fence lost", agent=self._options.name, cause=str(error))
            return False
        return True

    def _try_once(self, fetch: Fetch) -> None:
        # Faust drops a fetch of an earlier generation, a seek may overtake a fetch, and after an outage the store may
        # stand before it. The consumer does not fetch the missing records again without a new seek, and the records
        # after them must not be processed.
        self._leaves_out |= any(
            part.start > self._expected.get(tp, part.start) for tp, part in fetch.partitions.items()
        )
        batch = self._batch(fetch)
        if not batch:
            return
        first = [(Place(part.topic, part.partition), part.messages[0]) for part in batch if part.messages]
        self._in_hand = {place: (message.offset, message.timestamp_ms) for place, message in first}
        try:
            with self._metrics.batch_seconds.time(), follow_batch(self._options, batch):
                self._handler.handle(batch)
        except TRANSIENT:
            # It is unknown whether the commit succeeded, so read the offsets from the store again.
            self._take_over(list(self._expected))
            raise
        for part in batch:
            self._expected[TP(part.topic, part.partition)] = part.end_offset
        records = sum(len(part.messages) for part in batch)
        self._metrics.records.inc(records)
        self._metrics.batch_records.observe(records)
        # Free the messages here: Faust's loop would do it during the next batch, and need the interpreter lock for it.
        fetch.partitions.clear()
        self.progressed_at = time.monotonic()

    def _batch(self, fetch: Fetch) -> list[PartitionBatch]:
        """Return the part of a fetch that is still to be processed.

        Drop a partition that this worker lacks, that was processed already, or that starts past the expected offset, as
        a fetch from before a seek may.
        """
        batch = []
        for tp, part in sorted(fetch.partitions.items()):
            expected = self._expected.get(tp)
            if expected is None or part.start > expected or part.end <= expected:
                continue
            fresh = part.messages
            if part.start < expected:
                fresh = [message for message in fresh if message.offset >= expected]
            batch.append(PartitionBatch(tp.topic, tp.partition, expected, fresh, part.end))
        return batch


def make_app(runner: _Runner, options: AgentOptions, metrics: AgentMetrics, looks: LagWatch) -> FencedApp:
    """Make the Faust app with its one agent and its timers."""
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
    async def watch() -> None:
        """Tell the watchdog if there is nothing to do.

        Stuck consumers are a known fault of the engine (faust#523, #532, #629). This function waits for nothing. If the
        loop itself is stuck, nobody calls it, and the watchdog's time runs out as well.
        """
        assigned = frozenset(Place(*tp) for tp in app.consumer.assignment())
        looks.member_id = None if assigned else app.member_id or ""
        expected = runner.stands()
        metrics.partitions.set(len(assigned & expected.keys()))
        fetched_ends = {Place(*tp): app.end_of(tp) for tp in runner.expected}
        work = find_work(Standing(assigned, expected, fetched_ends, runner.busy), looks.last, time.monotonic())
        runner.work = (time.monotonic(), work)
        if work is None:
            runner.progressed_at = time.monotonic()
        runner.note_missing(app.find_missing())

    @app.timer(1.0, on_leader=False)  # type: ignore[untyped-decorator]
    async def chores() -> None:
        if not await runner.idle():
            await app.consumer.perform_seek()
        await tell_kafka()

    return app


class _Worker(faust.Worker):  # type: ignore[misc]
    """A Faust worker that reports a signal at once: Faust's on_before_shutdown waits seconds for the consumer."""

    def __init__(self, app: FencedApp, told_to_stop: Callable[[], None], **options: Any) -> None:
        super().__init__(app, **options)
        self.spinner = None  # its drawing would be in the logs, before the first line
        self._told_to_stop = told_to_stop

    def _schedule_shutdown(self, signal: Any) -> None:
        self._told_to_stop()
        super()._schedule_shutdown(signal)


def run_agent(
    handler: BatchHandler,
    options: AgentOptions,
    find_away: Callable[[], str | None],
    ahead: ReadAhead | None = None,
    beside: Beside | None = None,
) -> None:
    """Run the agent, and serve its metrics, until SIGTERM or SIGINT; the batch under way is finished first.

    Blocks; call it from the main thread. `find_away` names a part that does not answer a new connection (streams.away).
    `ahead` is for a handler that can read the next fetches while it waits for its store. `beside` runs in threads of
    the same process, and stops with the agent.
    """
    # A batch makes hundreds of thousands of objects and no cycles: with the default thresholds the collector takes a
    # fifth of a worker's time. The objects that exist now live as long as the process.
    gc.freeze()
    gc.set_threshold(1_000_000, 20, 100)
    sys.setswitchinterval(SWITCH_SECONDS)
    metrics = AgentMetrics(options.name, options.name_place)
    runner = _Runner(handler, options, metrics, ahead, find_away)
    looks = LagWatch(options, runner.stands, runner.get_first_in_hand, metrics.show_lags)
    app = make_app(runner, options, metrics, looks)
    watchdog = Watchdog(
        options.name,
        lambda: runner.progressed_at if beside is None else min(runner.progressed_at, beside.progressed_at),
        stall_seconds_max=options.stall_seconds_max,
        explain=lambda: {**runner.explain(), "look": looks.last},
    )

    def told_to_stop() -> None:
        runner.stopping.set()
        if beside is not None:
            beside.stop.set()
        watchdog.note_stop_order()

    worker = _Worker(
        app, told_to_stop, loglevel=options.log_level, override_logging=False, redirect_stdouts=False, quiet=True
    )  # fmt: skip
    assigned = threading.Event()

    @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
    async def on_partitions_assigned(_: Any, partitions: Iterable[TP], **__: Any) -> None:
        places = sorted(Place(*tp) for tp in partitions)
        named = places if len(options.topics) > 1 else [place.partition for place in places]
        logger.info("partitions assigned", agent=options.name, partitions=named)
        if not assigned.is_set():
            assigned.set()
            runner.progressed_at = time.monotonic()
            watchdog.watch_for_stalls()  # not before: until Kafka has assigned partitions there is nothing to do

    def find_missing() -> str | None:
        if not assigned.is_set():
            return "Kafka has not yet assigned partitions."
        return None if beside is None else beside.missing()

    serve_metrics(options.metrics_host, options.metrics_port, find_missing, options.metrics_tls)
    looks.start()
    watchdog.start()
    if beside is not None:
        beside.start()
    try:
        worker.execute_from_commandline()
    except SystemExit:
        # Faust ends with an exit code only. Raise a LedgerlineError itself: its sentence tells people what to repair.
        if isinstance(worker.crash_reason, LedgerlineError):
            raise worker.crash_reason from None
        raise
    finally:
        if beside is not None:
            beside.join()
