"""What the console shows, looked up once a second however many watch it, and not at all while nobody does."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import structlog

from api.console.latency import AcceptTimes, Latency
from api.postgres_watch import PostgresWatch
from db.connections import DatabaseError
from db.operations import LaneProgress
from db.overview import CurrencySums, Overview, read_overview
from db.reads import Pool
from domain.outcomes import Outcome
from runtime.positions import Positions, PositionsUnknown, lag

PERIOD_SECONDS: Final = 1.0
HISTORY_SECONDS: Final = 600
PULSES_WAITING_MAX: Final = 4
"""Of a viewer that reads too slowly; the oldest make room, as each pulse says everything."""
LAGS: Final = ("unposted", "unrelayed", "unreconciled", "unaudited")

log = structlog.get_logger(__name__)


class Reader(Protocol):
    """What tells how far the topics go (runtime.positions.PositionReader)."""

    def read(self) -> Positions:
        """How far they go now; blocks. PositionsUnknown where Kafka is away."""

    def close(self) -> None:
        """Let go of everything; blocks."""


class Pulse:
    """One look at everything: what all may see, and sums of money by tenant."""

    def __init__(self, shared: dict[str, Any], symmetry: list[CurrencySums]) -> None:
        self.shared = shared
        self.symmetry = symmetry


class Viewer:
    """Who watches: a bounded queue of pulses, and None at the end."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.pulses: asyncio.Queue[Pulse | None] = asyncio.Queue(PULSES_WAITING_MAX)

    def hand(self, pulse: Pulse | None) -> None:
        """Never waits."""
        if self.pulses.full():
            self.pulses.get_nowait()
        self.pulses.put_nowait(pulse)


class Feed:
    """For the coroutines of one event loop."""

    def __init__(
        self, pool: Pool, postgres: PostgresWatch, accept_times: AcceptTimes, make_reader: Callable[[], Reader]
    ) -> None:
        self._pool = pool
        self._postgres = postgres
        self._accept_times = accept_times
        self._make_reader = make_reader
        self._viewers: set[Viewer] = set()
        self._history: deque[list[Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self.looks = 0
        """How often everything was looked up."""

    @property
    def viewers(self) -> int:
        """How many watch now."""
        return len(self._viewers)

    @property
    def is_closed(self) -> bool:
        """Whether nobody more can watch, as the process is about to end."""
        return self._closed.is_set()

    @property
    def history(self) -> list[list[Any]]:
        """Points of the last minutes, as far as somebody watched: see `_point`."""
        return list(self._history)

    def join(self, tenant: str) -> Viewer:
        """Watch from now on; whoever joins must leave."""
        viewer = Viewer(tenant)
        self._viewers.add(viewer)
        if self._closed.is_set():
            viewer.hand(None)
        elif self._task is None:
            self._task = asyncio.create_task(self._run(), name="console")
            self._task.add_done_callback(self._ended)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Watch no longer."""
        self._viewers.discard(viewer)

    def release(self) -> None:
        """End every stream, as the process is about to end."""
        self._closed.set()
        for viewer in self._viewers:
            viewer.hand(None)

    async def close(self) -> None:
        """End, and wait until nothing is asked any more."""
        self.release()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("console_feed_failed", error=repr(task.exception()))
            for viewer in self._viewers:
                viewer.hand(None)

    async def _run(self) -> None:
        while self._viewers and not self._closed.is_set():
            reader = await asyncio.to_thread(self._make_reader)
            self._accept_times.watch(is_watched=True)
            try:
                while self._viewers and not self._closed.is_set():
                    started = time.monotonic()
                    pulse, reader_answers = await self._look(reader)
                    self._publish(pulse)
                    await self._pause(PERIOD_SECONDS - (time.monotonic() - started))
                    if not reader_answers:  # a kept client can stay deaf after an outage: decision 26
                        break
            finally:
                self._accept_times.watch(is_watched=False)
                await asyncio.to_thread(reader.close)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), max(seconds, 0.01))
        except TimeoutError:
            return

    def _publish(self, pulse: Pulse) -> None:
        point = _point(pulse.shared)
        self._history.append(point)
        while self._history[0][0] < point[0] - HISTORY_SECONDS * 1000:
            self._history.popleft()
        for viewer in self._viewers:
            viewer.hand(pulse)

    async def _look(self, reader: Reader) -> tuple[Pulse, bool]:
        """Look once; the pulse, and whether the reader had an answer from Kafka."""
        self.looks += 1
        tenants = sorted({viewer.tenant for viewer in self._viewers})
        asked = self._postgres.ask(partial(read_overview, self._pool, tenants))
        found, positions = await asyncio.gather(asked, asyncio.to_thread(reader.read), return_exceptions=True)
        faults = []
        for answer, expected in ((found, DatabaseError), (positions, PositionsUnknown)):
            if isinstance(answer, BaseException):
                if not isinstance(answer, expected):
                    raise answer
                faults.append(str(answer))
        overview = found if isinstance(found, Overview) else None
        ends = positions if isinstance(positions, Positions) else None
        shared = described(overview, ends, self._accept_times.take(), faults)
        return Pulse(shared, [] if overview is None else overview.symmetry), ends is not None


def described(
    overview: Overview | None, ends: Positions | None, latency: Latency | None, faults: list[str]
) -> dict[str, Any]:
    """All that is shown but sums of money; None stands for what could not be learned. Times are milliseconds."""
    lanes = _lanes(overview, ends)
    document: dict[str, Any] = {
        "time": time.time_ns() // 1_000_000,
        "faults": faults,
        "lanes": lanes,
        "totals": {name: _sum(lanes, name) for name in ("received", "journalled", *LAGS)},
        "latency": None if latency is None else latency._asdict(),
        "fates": None,
        "conservation_gap": None,
        "breaks": None,
        "checkpoint": None,
    }
    if overview is None:
        return document
    fates = {
        outcome.value: sum(getattr(row, outcome.value) or 0 for row in overview.lanes) for outcome in reversed(Outcome)
    }
    reconciled = sum(row.reconciled_seq or 0 for row in overview.lanes)
    return document | {
        "fates": fates,
        # What the topic brought, less what became of it and what it still owes; each lane by itself, so that one cannot
        # make up for another.
        "conservation_gap": sum(abs(_gap(row)) for row in overview.lanes),
        "reconciled": reconciled,
        "breaks": [
            found._asdict() | {"first_opened_time": found.first_opened_time // 1000} for found in overview.breaks
        ],
        "checkpoint": None
        if overview.checkpoint is None
        else {
            "checkpoint": overview.checkpoint.checkpoint,
            "signed_time": overview.checkpoint.signed_time // 1000,
            "key_id": overview.checkpoint.key_id,
        },
    }


def _gap(row: LaneProgress) -> int:
    fates = sum(getattr(row, outcome.value) or 0 for outcome in Outcome)
    return (row.reconciled_seq or 0) - fates - row.missing


def _sum(lanes: list[dict[str, Any]], name: str) -> int | None:
    figures = [lane[name] for lane in lanes]
    return None if None in figures or not figures else sum(figures)


def _lanes(overview: Overview | None, ends: Positions | None) -> list[dict[str, Any]]:
    """Lanes that either side knows; one that was never posted to stands at the topic's first offset."""
    rows = {row.lane: row for row in overview.lanes} if overview else {}
    received, relayed, first = (ends.received, ends.relayed, ends.first) if ends else ({}, {}, {})
    return [
        _lane(lane, rows.get(lane), overview is not None, received.get(lane), relayed.get(lane), first)
        for lane in sorted(rows.keys() | received.keys())
    ]


def _lane(
    lane: int,
    row: LaneProgress | None,
    is_known: bool,
    end: int | None,
    relayed: int | None,
    first: Mapping[int, int],
) -> dict[str, Any]:
    start = row.first_offset if row else first.get(lane, 0)
    journalled = row.next_seq if row else (0 if is_known else None)
    reconciled = (row.reconciled_seq or 0) if row else journalled
    audited = (row.audited_seq or 0) if row else journalled
    # Counted from where the ledger begins, as seq is.
    received = None if end is None else end - start
    return {
        "lane": lane,
        "received": received,
        "journalled": journalled,
        "relayed": relayed,
        "reconciled": reconciled,
        "audited": audited,
        "unposted": lag(received, journalled),
        "unrelayed": lag(journalled, relayed),
        "unreconciled": lag(journalled, reconciled),
        "unaudited": lag(journalled, audited),
        "booked_time": row.booked_time // 1000 if row and row.next_seq else None,
    }


def _point(shared: dict[str, Any]) -> list[Any]:
    """A pulse in the history: time, received, journalled, the four lags, and the median and 99th of the latency."""
    totals, latency = shared["totals"], shared["latency"]
    return [
        shared["time"],
        totals["received"],
        totals["journalled"],
        *(totals[name] for name in LAGS),
        None if latency is None else latency["p50"],
        None if latency is None else latency["p99"],
    ]
