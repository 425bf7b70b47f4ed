"""The data of the console: looked up once a second for all viewers together, and not at all without a viewer."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from api.console.latency import AcceptTimes, Latency
from api.database import Database
from db.connections import DatabaseError
from db.operations import LaneProgress
from db.overview import CurrencySums, Overview, read_overview
from domain.outcomes import Outcome
from runtime.positions import Positions, PositionsUnknown, compute_lag

PERIOD_SECONDS: Final = 1.0
HISTORY_SECONDS: Final = 600
PULSES_WAITING_MAX: Final = 4
"""Most pulses that wait for a slow viewer. The oldest is dropped then, as each pulse holds the whole state."""
LAGS: Final = ("unposted", "unrelayed", "unreconciled", "unaudited")

logger: Final = structlog.get_logger(__name__)


class Reader(Protocol):
    """Reads the end positions of the topics (runtime.positions.PositionReader)."""

    def read(self) -> Positions:
        """Return the positions now; block meanwhile. Raise PositionsUnknown if Kafka is away."""

    def close(self) -> None:
        """Close the connections; block meanwhile."""


class Pulse:
    """The state at one moment: the part that every viewer may see, and the sums of money by tenant."""

    def __init__(self, shared: dict[str, Any], symmetry: list[CurrencySums]) -> None:
        self.shared = shared
        self.symmetry = symmetry


class Viewer:
    """One client that watches. Its bounded queue holds pulses, and None as the last item."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.pulses: asyncio.Queue[Pulse | None] = asyncio.Queue(PULSES_WAITING_MAX)

    def hand(self, pulse: Pulse | None) -> None:
        """Put a pulse into the queue without waiting; drop the oldest one if the queue is full."""
        if self.pulses.full():
            self.pulses.get_nowait()
        self.pulses.put_nowait(pulse)


class Feed:
    """The viewers, and the task that looks up a pulse for them each second. Use it in one event loop only."""

    def __init__(self, database: Database, accept_times: AcceptTimes, make_reader: Callable[[], Reader]) -> None:
        self._database = database
        self._accept_times = accept_times
        self._make_reader = make_reader
        self._viewers: set[Viewer] = set()
        self._history: deque[list[Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self.looks = 0
        """The number of look-ups so far."""

    @property
    def viewers(self) -> int:
        """The number of viewers now."""
        return len(self._viewers)

    @property
    def is_closed(self) -> bool:
        """Whether new viewers are refused, as the process is about to end."""
        return self._closed.is_set()

    @property
    def history(self) -> list[list[Any]]:
        """Points (see `_point`) of the last HISTORY_SECONDS; times without a viewer have none."""
        return list(self._history)

    def join(self, tenant: str) -> Viewer:
        """Add a viewer, and return it. The caller must hand it to `leave` in the end."""
        viewer = Viewer(tenant)
        self._viewers.add(viewer)
        if self._closed.is_set():
            viewer.hand(None)
        elif self._task is None:
            self._task = asyncio.create_task(self._run(), name="console")
            self._task.add_done_callback(self._note_end)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self._viewers.discard(viewer)

    def release(self) -> None:
        """End every viewer's stream, as the process is about to end."""
        self._closed.set()
        for viewer in self._viewers:
            viewer.hand(None)

    async def close(self) -> None:
        """End every stream, and wait until the last look-up has ended."""
        self.release()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("console feed failed", error=repr(task.exception()))
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
                    if not reader_answers:  # after an outage an old client may never recover: make a new one (0026)
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
        """Look up once; return the pulse, and whether the reader had an answer from Kafka."""
        self.looks += 1
        tenants = sorted({viewer.tenant for viewer in self._viewers})
        asked = self._database.ask(lambda pool: read_overview(pool, tenants))
        found, positions = await asyncio.gather(asked, asyncio.to_thread(reader.read), return_exceptions=True)
        faults = []
        for answer, expected in ((found, DatabaseError), (positions, PositionsUnknown)):
            if isinstance(answer, BaseException):
                if not isinstance(answer, expected):
                    raise answer
                faults.append(str(answer))
        overview = found if isinstance(found, Overview) else None
        ends = positions if isinstance(positions, Positions) else None
        shared = describe_feed(overview, ends, self._accept_times.take(), faults)
        return Pulse(shared, [] if overview is None else overview.symmetry), ends is not None


def describe_feed(
    overview: Overview | None, ends: Positions | None, latency: Latency | None, faults: list[str]
) -> dict[str, Any]:
    """Return all that the console shows except sums of money; None stands for a value that could not be read.

    Points in time are milliseconds since 1970 UTC; latencies are seconds.
    """
    lanes = _describe_lanes(overview, ends)
    document: dict[str, Any] = {
        "time": time.time_ns() // 1_000_000,
        "faults": faults,
        "lanes": lanes,
        "totals": {name: _add_up(lanes, name) for name in ("received", "journalled", *LAGS)},
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
        # The records that reconciliation read, less their fates and the records still missing. Absolute values by lane,
        # so that the gap of one lane cannot cancel that of another.
        "conservation_gap": sum(abs(_compute_gap(row)) for row in overview.lanes),
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


def _compute_gap(row: LaneProgress) -> int:
    fates = sum(getattr(row, outcome.value) or 0 for outcome in Outcome)
    return (row.reconciled_seq or 0) - fates - row.missing


def _add_up(lanes: list[dict[str, Any]], name: str) -> int | None:
    figures = [lane[name] for lane in lanes]
    return None if None in figures or not figures else sum(figures)


def _describe_lanes(overview: Overview | None, ends: Positions | None) -> list[dict[str, Any]]:
    """Return each lane that Postgres or Kafka knows; a lane without postings begins at the topic's first offset."""
    rows = {row.lane: row for row in overview.lanes} if overview else {}
    received, relayed, first = (ends.received, ends.relayed, ends.first) if ends else ({}, {}, {})
    return [
        _describe_lane(lane, rows.get(lane), overview is not None, received.get(lane), relayed.get(lane), first)
        for lane in sorted(rows.keys() | received.keys())
    ]


def _describe_lane(
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
    # Count from the ledger's first offset, as seq does.
    received = None if end is None else end - start
    return {
        "lane": lane,
        "received": received,
        "journalled": journalled,
        "relayed": relayed,
        "reconciled": reconciled,
        "audited": audited,
        "unposted": compute_lag(received, journalled),
        "unrelayed": compute_lag(journalled, relayed),
        "unreconciled": compute_lag(journalled, reconciled),
        "unaudited": compute_lag(journalled, audited),
        "booked_time": row.booked_time // 1000 if row and row.next_seq else None,
    }


def _point(shared: dict[str, Any]) -> list[Any]:
    """Return a pulse's point in the history.

    It holds the time, received, journalled, the four lags, and the median and 99th percentile of the latency.
    """
    totals, latency = shared["totals"], shared["latency"]
    return [
        shared["time"],
        totals["received"],
        totals["journalled"],
        *(totals[name] for name in LAGS),
        None if latency is None else latency["p50"],
        None if latency is None else latency["p99"],
    ]
