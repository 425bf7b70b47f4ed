"""What both provers do between batches: gauges, rechecks of open breaks, and sweeps over everything stored."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import Gauge

from db.agent_connection import AgentConnection
from db.breaks import BEFORE_ALL, BreakStore
from db.proving import find_stray_rows
from domain.breaks import Break, BreakKind, Finding
from streams.proof.metrics import show_breaks

STRAYS_MAX: Final = 100
RECHECKED_MAX: Final = 100
GAUGE_SECONDS: Final = 2.0


class SpareTime:
    """The share of an agent's time that its batches leave free. Sweeps use it, because batches come first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._busy_seconds = 0.0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Count the time inside this context as time of a batch."""
        started = self._clock()
        try:
            yield
        finally:
            self._busy_seconds += self._clock() - started

    def compute_share(self) -> float:
        """Return the share, 0 to 1, of the time since the last call that no batch took."""
        now = self._clock()
        elapsed_seconds = now - self._since
        share = 1.0 - self._busy_seconds / elapsed_seconds if elapsed_seconds > self._busy_seconds else 0.0
        self._since, self._busy_seconds = now, 0.0
        return share


class PagedSweep:
    """A sweep over everything stored, one page at each call, that starts again after a pause."""

    def __init__(self, pages: Callable[[], Iterator[None]], pause_seconds: float, duration: Gauge) -> None:
        self._pages = pages
        self._pause_seconds = pause_seconds
        self._duration = duration
        self._under_way: Iterator[None] | None = None
        self._started = 0.0
        self._due = 0.0

    def turn_page(self) -> bool:
        """Process one page; return False if the next sweep is not due yet."""
        now = time.monotonic()
        if self._under_way is None:
            if now < self._due:
                return False
            self._under_way, self._started = self._pages(), now
        pages, self._under_way = self._under_way, None  # a sweep that raises does not go on
        try:
            next(pages)
        except StopIteration:
            self._duration.set(now - self._started)
            self._due = now + self._pause_seconds
        else:
            self._under_way = pages
        return True

    def turn_pages(self, budget_seconds: float) -> None:
        """Process pages for about `budget_seconds`, and at least one if a sweep is due: so it ends under any load."""
        deadline = time.monotonic() + budget_seconds
        while self.turn_page() and time.monotonic() < deadline:
            pass


class Chores(ABC):
    """The chores of one proving worker; `run` returns within about a second."""

    breaks: BreakStore
    budget_seconds: float
    """How long a call may sweep if no batch came."""
    resolved_detail: str
    """The detail of a break that is gone."""
    rechecked_kinds: Iterable[BreakKind] = BreakKind
    """The kinds of the breaks that `_is_gone` is asked about."""

    def __init__(self, store: AgentConnection, pause_seconds: float, duration: Gauge) -> None:
        """`pause_seconds`: the time between sweeps. `duration`: the gauge that shows how long a sweep took."""
        self._store = store
        self._sweep = PagedSweep(self._pages, pause_seconds, duration)
        self._gauges_due = 0.0
        self._recheck_after = BEFORE_ALL

    @abstractmethod
    def check_progress(self) -> None:
        """Check where the lanes stand, and set the gauges."""

    @abstractmethod
    def _pages(self) -> Iterator[None]:
        """Check a page of what is stored, in a transaction of its own, before each yield."""

    @abstractmethod
    def _is_gone(self, connection: Any, item: Break) -> bool:
        """Return whether the difference of a break is not there any more."""

    def run(self, spare_share: float = 1.0) -> None:
        """Set gauges, recheck open breaks, then sweep pages for the time that batches leave, but at least one page."""
        self._check_progress_if_due()
        self.recheck()
        self._sweep.turn_pages(self.budget_seconds * spare_share)

    def sweep_all(self) -> None:
        """Do one whole sweep and all rechecks without a time limit; for tests and for a last check before a stop."""
        self.check_progress()
        for _ in self._pages():
            pass
        self._recheck_after = BEFORE_ALL
        while self.recheck():
            pass

    def recheck(self) -> bool:
        """Check a page of unresolved breaks again and resolve those that are gone; return False after the last page."""
        with self._store.transaction() as connection:
            page = self.breaks.unresolved(connection, RECHECKED_MAX, self._recheck_after, self.rechecked_kinds)
            self._recheck_after = page[-1].break_id if len(page) == RECHECKED_MAX else BEFORE_ALL
            gone = [item.break_id for item in page if self._is_gone(connection, item)]
            self.breaks.resolve(connection, gone, self.resolved_detail)
            show_breaks(self.breaks.found_by, self.breaks.counts(connection), self.breaks.open_breaks(connection))
        return self._recheck_after != BEFORE_ALL

    def _check_progress_if_due(self) -> None:
        if time.monotonic() >= self._gauges_due:
            self.check_progress()
            self._gauges_due = time.monotonic() + GAUGE_SECONDS

    def _settle(
        self, connection: Any, findings: list[Finding], checked: Iterable[tuple[BreakKind, str]], detail: str
    ) -> None:
        """Record the findings, and resolve the breaks about those `checked` (kind, subject) that have no finding."""
        self.breaks.record(connection, findings)
        right = set(checked) - {(finding.kind, finding.subject) for finding in findings}
        self.breaks.resolve_about(connection, right, detail)


def is_still_stray(connection: Any, item: Break) -> bool:
    """Return whether the row or the entries of this break still lie outside every lane."""
    return (item.lane, item.seq) in {(lane, seq) for lane, seq, _ in find_stray_rows(connection, STRAYS_MAX)}
