"""The fenced consumer: a Faust agent whose offsets live in its own store, and move in its own transactions.

Faust brings partitions, hands over what was fetched, and follows rebalances. What it thinks is committed never
counts: on each assignment the consumer seeks to what the agent's store says, and each batch carries the offset at
which the agent believes the store to stand, for a compare-and-set (docs/decisions/0001-whole-fetches-through-faust.md).

A whole fetch travels through Faust as one event, since Faust's cost is by the event: 20 to 50 microseconds each.
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
from streams.batches import AgentOptions, BatchHandler, FenceLost, Message, PartitionBatch
from streams.engine import FencedApp, Fetch, ReadAhead, TopicBegunAnew
from streams.idleness import Standing, find_work
from streams.lag import LagWatch
from streams.metrics import AgentMetrics, serve_metrics
from streams.tracing import following

logger: Final = structlog.get_logger(__name__)

OUTAGES: Final = (*TRANSIENT, Outage)
BACKOFF_SECONDS_MAX: Final = 5.0
COMMIT_SECONDS: Final = 1.0
# While an outage lasts, the parts are asked over new connections this many times within the watchdog's term.
ASK_SHARE: Final = 4
# The handler's thread waits for the store some forty times a batch. By Python's default each time up to 5 ms more,
# until the consumer's thread, which unpacks the next fetch, hands over the interpreter's lock. Below a millisecond they
# hand it over more often than is good for either.
SWITCH_SECONDS: Final = 0.001

Result = TypeVar("Result")

__all__ = [
    "AgentOptions",
    "BatchHandler",
    "FenceLost",
    "Message",
    "PartitionBatch",
    "ReadAhead",
    "TopicBegunAnew",
    "run_agent",
]


class _Runner:
    """Calls the handler from one thread, keeps what it expects of the store, and waits outages out."""

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
        self._in_hand: dict[int, tuple[int, int]] = {}
        self._calls = 0
        self.stopping = threading.Event()
        self.progressed_at = time.monotonic()
        self.work: tuple[float, str | None] = (time.monotonic(), None)
        """When it was last looked whether there is work, and what work there was."""

    def explain(self) -> dict[str, Any]:
        """What a log should tell of an agent that does nothing."""
        looked_at, work = self.work
        return {"work": work, "looked_seconds_ago": round(time.monotonic() - looked_at, 1), "stands": self.stands()}

    @property
    def expected(self) -> dict[TP, int]:
        """The next offset to process of each partition that this worker has."""
        return dict(self._expected)

    def stands(self) -> dict[int, int]:
        """The next offset to process of each partition that this worker has, by the partition's number."""
        return {tp.partition: offset for tp, offset in self.expected.items()}

    def in_hand(self) -> dict[int, tuple[int, int]]:
        """Offset, and timestamp in milliseconds, of the first record of each partition in the batch under way."""
        return self._in_hand

    @property
    def busy(self) -> bool:
        """Whether the handler has something in hand; asked in the event loop."""
        return self._calls > 0

    async def positions(self, assigned: Iterable[TP]) -> dict[TP, int]:
        """Take over the assigned partitions at the offsets of the store, once a batch under way is through.

        None of them where the worker was told to stop while it waited for the store.
        """
        return await self._call({}, self._take_over, [TP(*tp) for tp in assigned])

    async def process(self, fetch: Fetch) -> bool:
        """Process a fetch; False where the fence was lost and the consumer must seek again.

        True too where the worker was told to stop while it waited: the next one finds the fetch unprocessed.
        """
        return await self._call(True, self._process, fetch)

    async def idle(self) -> bool:
        """Let the handler do its chores; False where the fence was lost and the consumer must seek again."""
        return await self._call(True, self._keeps_fence, self._handler.idle)

    async def close(self) -> None:
        """End the thread after the batch under way."""
        self.stopping.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    async def _call(self, at_stop: Result, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call in the handler's thread; `at_stop` where the worker was told to stop while it waited for something."""
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

    def _patiently(self, function: Any, *arguments: Any) -> Any:
        """Call, and call again with growing pauses while what it needs is away; a stop ends the waiting."""
        pause_seconds = 0.05
        # From the last progress, not from this call: a call that was silent for 30 seconds has used up half a term.
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
                    # The watchdog is for a process that is stuck: a restart brings back nothing that is away.
                    self.progressed_at = time.monotonic()
                    ask_from = self.progressed_at + self._options.stall_seconds_max / ASK_SHARE
                self.stopping.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)

    def _is_something_away(self) -> bool:
        """Whether a part does not answer a new connection either. If all answer, the fault is in this process."""
        away = self._find_away()
        logger.warning("asked the parts", agent=self._options.name, away=away)
        return away is not None

    def _take_over(self, assigned: list[TP]) -> dict[TP, int]:
        partitions = [tp.partition for tp in assigned if tp.topic == self._options.topic]
        found = self._patiently(self._handler.positions, self._options.topic, partitions) if partitions else {}
        self._expected = {TP(self._options.topic, partition): offset for partition, offset in found.items()}
        self.progressed_at = time.monotonic()
        return self.expected

    def _process(self, fetch: Fetch) -> bool:
        if self.ahead is not None:
            self.ahead.take(fetch)
        # Faust drops a fetch of the generation before, and a seek may overtake one: what lies between is never fetched
        # again by itself, and what comes after it must not be posted.
        leaves_out = any(start > self._expected.get(tp, start) for tp, (start, _, _) in fetch.partitions.items())
        return self._keeps_fence(self._try_once, fetch) and not leaves_out

    def _keeps_fence(self, function: Any, *arguments: Any) -> bool:
        try:
            self._patiently(function, *arguments)
        except FenceLost as error:
            self._metrics.fences_lost.inc()
            logger.warning("fence lost", agent=self._options.name, cause=str(error))
            return False
        return True

    def _try_once(self, fetch: Fetch) -> None:
        batch = self._batch(fetch)
        if not batch:
            return
        first = [(part.partition, part.messages[0]) for part in batch if part.messages]
        self._in_hand = {partition: (message.offset, message.timestamp_ms) for partition, message in first}
        try:
            with self._metrics.batch_seconds.time(), following(self._options, batch):
                self._handler.handle(batch)
        except TRANSIENT:
            # Whether the commit came through is unknown: the store says.
            self._take_over(list(self._expected))
            raise
        for part in batch:
            self._expected[TP(part.topic, part.partition)] = part.end_offset
        records = sum(len(part.messages) for part in batch)
        self._metrics.records.inc(records)
        self._metrics.batch_records.observe(records)
        # Let go of it here: Faust's loop would do it beside the next batch, and want the interpreter for it.
        fetch.partitions.clear()
        self.progressed_at = time.monotonic()

    def _batch(self, fetch: Fetch) -> list[PartitionBatch]:
        """What of a fetch is still to be processed; what was fetched before a seek and lies past it is dropped."""
        batch = []
        for tp, (start, end, messages) in sorted(fetch.partitions.items()):
            expected = self._expected.get(tp)
            if expected is None or start > expected or end <= expected:
                continue
            fresh = messages if start == expected else [message for message in messages if message.offset >= expected]
            batch.append(PartitionBatch(tp.topic, tp.partition, expected, fresh, end))
        return batch


def make_app(runner: _Runner, options: AgentOptions, metrics: AgentMetrics, looks: LagWatch) -> FencedApp:
    """The Faust app with its one agent and its chores."""
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
        """Tell the watchdog that there is nothing to do.

        Stuck consumers are a known fault of the engine (faust#523, #532, #629). This function waits for nothing. If the
        loop itself is stuck, nobody calls it, and the watchdog's time runs out as well.
        """
        assigned = frozenset(tp.partition for tp in app.consumer.assignment())
        looks.member_id = None if assigned else app.member_id or ""
        expected = runner.stands()
        metrics.partitions.set(len(assigned & expected.keys()))
        fetched_ends = {tp.partition: app.end_of(tp) for tp in runner.expected}
        work = find_work(Standing(assigned, expected, fetched_ends, runner.busy), looks.last, time.monotonic())
        runner.work = (time.monotonic(), work)
        if work is None:
            runner.progressed_at = time.monotonic()

    @app.timer(1.0, on_leader=False)  # type: ignore[untyped-decorator]
    async def chores() -> None:
        if not await runner.idle():
            await app.consumer.perform_seek()
        await tell_kafka()

    return app


class _Worker(faust.Worker):  # type: ignore[misc]
    """Says at once that a signal came: Faust's own on_before_shutdown waits for the consumer, for seconds."""

    def __init__(self, app: FencedApp, told_to_stop: Callable[[], None], **options: Any) -> None:
        super().__init__(app, **options)
        self.spinner = None  # what it draws would stand in the logs, before the first line
        self._told_to_stop = told_to_stop

    def _schedule_shutdown(self, signal: Any) -> None:
        self._told_to_stop()
        super()._schedule_shutdown(signal)


def run_agent(
    handler: BatchHandler,
    options: AgentOptions,
    find_away: Callable[[], str | None],
    ahead: ReadAhead | None = None,
) -> None:
    """Run the agent, and serve its metrics, until SIGTERM or SIGINT; the batch under way is finished first.

    Blocks; call it from the main thread. `find_away` names a part that does not answer a new connection (streams.away).
    `ahead` is for a handler that has time to read what comes next.
    """
    # A batch makes hundreds of thousands of objects and no cycles: with the default thresholds the collector takes a
    # fifth of a worker's time. What is there now lives as long as the process.
    gc.freeze()
    gc.set_threshold(1_000_000, 20, 100)
    sys.setswitchinterval(SWITCH_SECONDS)
    metrics = AgentMetrics(options.name)
    runner = _Runner(handler, options, metrics, ahead, find_away)
    looks = LagWatch(options, runner.stands, runner.in_hand, metrics.show_lags)
    app = make_app(runner, options, metrics, looks)
    watchdog = Watchdog(
        options.name,
        lambda: runner.progressed_at,
        stall_seconds_max=options.stall_seconds_max,
        explain=lambda: {**runner.explain(), "look": looks.last},
    )

    def told_to_stop() -> None:
        runner.stopping.set()
        watchdog.told_to_stop()

    worker = _Worker(
        app, told_to_stop, loglevel=options.log_level, override_logging=False, redirect_stdouts=False, quiet=True
    )  # fmt: skip
    assigned = threading.Event()

    @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
    async def on_partitions_assigned(_: Any, partitions: Iterable[TP], **__: Any) -> None:
        logger.info("partitions assigned", agent=options.name, partitions=sorted(tp.partition for tp in partitions))
        if not assigned.is_set():
            assigned.set()
            runner.progressed_at = time.monotonic()
            watchdog.watch_for_stalls()  # not before: until Kafka has assigned partitions there is nothing to do

    serve_metrics(
        options.metrics_host,
        options.metrics_port,
        lambda: None if assigned.is_set() else "Kafka has not yet assigned partitions.",
        options.metrics_tls,
    )
    looks.start()
    watchdog.start()
    try:
        worker.execute_from_commandline()
    except SystemExit:
        # Faust ends with a code alone; what people can mend is told in its sentence.
        if isinstance(worker.crash_reason, LedgerlineError):
            raise worker.crash_reason from None
        raise
