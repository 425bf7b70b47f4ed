"""The part of the worker that makes outside calls. See docs/decisions/0032-outside-calls.md.

One transaction (a turn) stores the results that have come, tells the handlers, claims what is due and prepares it. It
commits before a byte is sent. So after a crash each call under way is found by its lease, and counts as unknown.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import Gauge

from db.connections import TRANSIENT, Transaction
from db.outside_calls import OutsideCallsStore
from domain.effects import Effects
from domain.errors import Outage
from domain.outside_calls import Answer, Failure, is_outage, needs_pause, parse_retry_after
from runtime.guarded_http import GuardedHttp
from runtime.metrics import show_age
from streams.call_handlers import CallHandlers
from streams.call_turn import Attempt, Tried, take_turn
from streams.destinations import Destinations

logger: Final = structlog.get_logger(__name__)

TURN_SECONDS_MIN: Final = 0.02
"""Results and new calls of this time share a transaction."""
WAIT_SECONDS_MAX: Final = 1.0
"""A repeat may come so late. New calls and answers wake the part."""
BACKLOG_SECONDS: Final = 10.0
STOP_SECONDS_MAX: Final = 5.0
BACKOFF_SECONDS_MAX: Final = 5.0
LEASE_SPARE_SECONDS: Final = 60.0
REQUEST_SECONDS_MAX: Final = 120.0
RATE_WAIT_SECONDS_MAX: Final = 30.0
RESOLVING_THREADS: Final = 32

WAITING: Final = Gauge("ledgerline_outside_calls_waiting", "Calls that have something left to do.", ["kind"])
OLDEST: Final = Gauge("ledgerline_outside_calls_oldest_seconds", "Age of the oldest of these calls.", ["kind"])
OPEN_BREAKERS: Final = Gauge("ledgerline_outside_calls_open_breakers", "Destinations that are not called, or on trial.")

ApplyEffects = Callable[[Transaction, str, Effects], None]
"""Stores the effects of a handler, given the kind of call, in its transaction."""


@dataclass(frozen=True)
class CallOptions:
    """The settings of outside calls."""

    at_once: int = 256
    at_once_each: int = 8
    timeout_seconds: float = 15.0
    private_addresses: bool = False
    ca_file: Path | None = None
    lease_seconds: float = REQUEST_SECONDS_MAX + RATE_WAIT_SECONDS_MAX + LEASE_SPARE_SECONDS
    """Longer than any call takes. A crashed worker's calls wait for so long."""


class OutsideCalls:
    """Makes the outside calls of this process. `run` blocks until `stop` is set."""

    name = "calls"

    def __init__(
        self, dsn: str, handlers: CallHandlers, apply_effects: ApplyEffects, options: CallOptions | None = None
    ) -> None:
        self._dsn = dsn
        self._handlers = handlers
        self._apply_effects = apply_effects
        self._options = options or CallOptions()
        self._store = OutsideCallsStore(dsn)
        self._destinations = Destinations(self._options.at_once_each)
        self._tried: list[Tried] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._after = ""
        self._backlog_at = 0.0
        self._kinds_shown: set[str] = set()
        self._is_started = False
        self.progressed_at = time.monotonic()
        """Monotonic time of the last progress, for a watchdog."""

    def missing(self) -> str | None:
        """Return None once calls have been claimed for the first time, else what this part waits for."""
        return None if self._is_started else "The outside calls have not yet reached Postgres."

    def run(self, stop: threading.Event) -> None:
        """Make calls until `stop` is set. After an outage of Postgres, go on; results that have come are kept."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        # A name server that does not answer holds a thread; other names must not wait for it.
        loop.set_default_executor(ThreadPoolExecutor(RESOLVING_THREADS, "resolve"))
        self._wake = asyncio.Event()
        listener = threading.Thread(target=self._listen, args=(stop, loop), name="outside-calls-listener")
        listener.start()
        http = GuardedHttp(
            private_allowed=options.private_addresses,
            connections_max=options.at_once,
            timeout_seconds=options.timeout_seconds,
            ca_file=options.ca_file,
        )
        try:
            with ThreadPoolExecutor(1, "outside-calls-store") as database:
                async with http:
                    await self._work(stop, http, database)
                    await self._finish(database)
        finally:
            stop.set()
            await asyncio.to_thread(listener.join)
            self._store.close()

    async def _work(self, stop: threading.Event, http: GuardedHttp, database: ThreadPoolExecutor) -> None:
        pause_seconds = 0.1
        while not stop.is_set():
            began = time.monotonic()
            self._wake.clear()
            try:
                attempts = await self._turn(database, self._options.at_once - len(self._tasks))
            except (*TRANSIENT, Outage) as error:
                logger.warning("outside calls wait for Postgres", cause=str(error).strip(), seconds=pause_seconds)
                self.progressed_at = time.monotonic()
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, BACKOFF_SECONDS_MAX)
                continue
            pause_seconds = 0.1
            for attempt in attempts:
                self._begin(http, attempt)
            self._is_started = True
            self.progressed_at = time.monotonic()
            OPEN_BREAKERS.set(self._destinations.count_open())
            await asyncio.sleep(max(TURN_SECONDS_MIN - (time.monotonic() - began), 0))
            with contextlib.suppress(TimeoutError):  # then something may be due
                await asyncio.wait_for(self._wake.wait(), WAIT_SECONDS_MAX)

    async def _turn(self, database: ThreadPoolExecutor, room: int) -> Sequence[Attempt]:
        """Store and claim in one transaction. What it stored is forgotten only after the commit."""
        tried = list(self._tried)
        rooms = self._destinations.find_rooms(time.monotonic())
        loop = asyncio.get_running_loop()
        attempts, last = await loop.run_in_executor(database, self._take_turn, tried, room, rooms)
        del self._tried[: len(tried)]
        if room > 0:
            self._after = last
            if last:
                self._wake.set()  # there are destinations that this turn has not looked at
        return attempts

    def _take_turn(self, tried: Sequence[Tried], room: int, rooms: Any) -> tuple[Sequence[Attempt], str]:
        with self._store.transaction() as transaction:
            made = take_turn(
                transaction,
                self._handlers,
                self._apply_effects,
                tried,
                now=time.time_ns() // 1000,
                lease_seconds=self._options.lease_seconds,
                after=self._after,
                room=room,
                each_max=self._options.at_once_each,
                rooms=rooms,
                chance=random.random(),  # noqa: S311 - jitter is no secret
            )
        if time.monotonic() - self._backlog_at > BACKLOG_SECONDS:
            self._backlog_at = time.monotonic()
            self._show_backlog()
            self._prune()
        return made

    def _prune(self) -> None:
        for kind, handler in self._handlers.items():
            if handler.kept_seconds is not None:
                self._store.prune(kind, time.time_ns() // 1000 - int(handler.kept_seconds * 1e6))

    def _show_backlog(self) -> None:
        found = {row.kind: row for row in self._store.read_backlog()}
        for kind in self._kinds_shown | set(found):
            row = found.get(kind)
            WAITING.labels(kind).set(row.number if row is not None else 0)
            show_age(OLDEST.labels(kind), row.oldest_time / 1e6 if row is not None else None)
        self._kinds_shown |= set(found)

    def _begin(self, http: GuardedHttp, attempt: Attempt) -> None:
        limit = self._handlers[attempt.call.kind].rate_limit
        pause_seconds = self._destinations.begin(attempt.call.destination, limit, time.monotonic())
        task = asyncio.get_running_loop().create_task(self._try(http, attempt, pause_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    async def _try(self, http: GuardedHttp, attempt: Attempt, pause_seconds: float) -> None:
        """Send one request, and keep what came of it for the next turn."""
        found: Answer | Failure = Failure("the worker stopped before the call was sent", is_sent=False)
        counts = False
        began = None
        try:
            if pause_seconds > RATE_WAIT_SECONDS_MAX:
                found = Failure("the destination's rate limit leaves no room", is_sent=False)
                return
            await asyncio.sleep(pause_seconds)
            found = Failure("the worker stopped before the answer came", is_sent=True)
            began = time.monotonic()
            found = await http.send(attempt.request)
            counts = True
        finally:
            now = time.monotonic()
            destination = self._destinations.get(attempt.call.destination)
            destination.under_way -= 1
            if counts:
                destination.breaker.note(is_outage(found), now)
            if needs_pause(found) and isinstance(found, Answer):
                seconds = parse_retry_after(found.retry_after, time.time_ns() // 1000) or 0.0
                destination.paused_until = max(destination.paused_until, now + seconds)
            latency_seconds = now - began if began is not None else 0.0
            self._tried.append(Tried(attempt, found, int(latency_seconds * 1e6)))
            self._wake.set()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an outside call failed in our own code", error=repr(error))

    async def _finish(self, database: ThreadPoolExecutor) -> None:
        """Wait for the calls under way, at most STOP_SECONDS_MAX; store all results, also of those that were cut."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=STOP_SECONDS_MAX)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=STOP_SECONDS_MAX)
        try:
            await self._turn(database, 0)
        except (*TRANSIENT, Outage) as error:
            logger.warning("results of outside calls were not stored", cause=str(error).strip())

    def _listen(self, stop: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the loop when new calls commit. While Postgres is away, the loop looks by itself."""
        store = OutsideCallsStore(self._dsn, listens=True)
        while not stop.is_set():
            try:
                if store.wait(0.5):
                    loop.call_soon_threadsafe(self._wake.set)
            except (*TRANSIENT, Outage) as error:
                logger.warning("outside calls do not hear Postgres", cause=str(error).strip())
                stop.wait(1.0)
        store.close()
