"""Time from accepted to posted, for this process' own intents: it ends when the commit of their lane is announced."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

PENDING_MAX: Final = 10_000
"""Most intents of a lane that wait to be measured; beyond it the oldest are dropped."""


class Latency(NamedTuple):
    """The number of intents posted since the last `take`, and percentiles of their times in seconds."""

    intents: int
    p50: float
    p95: float
    p99: float


class AcceptTimes:
    """The times at which this process accepted intents. It notes none while nobody watches the console."""

    def __init__(self, now_microseconds: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now_microseconds = now_microseconds
        self._pending: dict[int, deque[tuple[int, int]]] = {}
        self._next_offsets: dict[int, int] = {}
        self._seconds: list[float] = []
        self.is_watched = False

    def watch(self, *, is_watched: bool) -> None:
        """Begin or end measuring, and forget all times noted before."""
        self.is_watched = is_watched
        self._pending.clear()
        self._seconds.clear()

    def note(self, lane: int, offset: int, accepted_time: int) -> None:
        """Note an intent that Kafka has, and that may be posted already; `accepted_time` is microseconds since 1970."""
        if offset < self._next_offsets.get(lane, 0):
            self._seconds.append((self._now_microseconds() - accepted_time) / 1e6)
        else:
            self._pending.setdefault(lane, deque(maxlen=PENDING_MAX)).append((offset, accepted_time))

    def announce(self, next_offsets: Mapping[int, int]) -> None:
        """Note that these lanes are posted up to these next offsets, and measure the intents before them."""
        self._next_offsets.update(next_offsets)
        if not self.is_watched:
            return
        now = self._now_microseconds()
        for lane, next_offset in next_offsets.items():
            pending = self._pending.get(lane)
            while pending and pending[0][0] < next_offset:
                self._seconds.append((now - pending.popleft()[1]) / 1e6)

    def take(self) -> Latency | None:
        """Return the figures since the last call; None if none of this process' intents was posted since."""
        found, self._seconds = sorted(self._seconds), []
        if not found:
            return None
        return Latency(
            len(found),
            _compute_percentile(found, 0.5),
            _compute_percentile(found, 0.95),
            _compute_percentile(found, 0.99),
        )


def _compute_percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value at index `part` * count, rounded down, of the ordered values; exact to 0.1 milliseconds."""
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 4)
