"""The code that the two proving agents share: page by page sweeps in spare time, and the events of their breaks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge


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

    def share(self) -> float:
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
