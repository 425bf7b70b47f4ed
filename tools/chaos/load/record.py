"""A compact record of the answers that the clients of a run got; thread-safe."""

import threading
import time
from collections import Counter
from typing import Final, NamedTuple

from domain.intents import compute_intent_id
from tools.chaos.load.content import Item
from tools.chaos.oracle import Acknowledged

_WRONG_KEPT_MAX: Final = 20


class _Answered(NamedTuple):
    idempotency_key: str
    partition: int
    offset: int
    digest: bytes


class Record:
    """The answers, the counts, and the longest time without an acknowledgement."""

    def __init__(self, tenant: str) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """The first _WRONG_KEPT_MAX answers and failures that no fault explains, as sentences."""
        self._tenant = tenant
        self._answered: list[_Answered] = []
        self._lock = threading.Lock()
        self._last_at: float | None = None
        self._since: float | None = None
        self._max_gap_seconds = 0.0

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self.counts[name] += number

    def acknowledge(self, item: Item, partition: int, offset: int, status: str) -> None:
        """Record that a client got a 202, or the outcome of an earlier delivery."""
        answered = _Answered(item.idempotency_key, partition, offset, item.digest)
        with self._lock:
            now = time.monotonic()
            self.counts["acknowledged"] += 1
            self.counts[f"answered {status}"] += 1
            self._answered.append(answered)
            if self._since is not None:
                self._max_gap_seconds = max(self._max_gap_seconds, now - self._since)
                self._since = now
            self._last_at = now

    def note_wrong(self, sentence: str) -> None:
        """Record something that must not happen."""
        with self._lock:
            self.counts["wrong"] += 1
            if len(self.wrong) < _WRONG_KEPT_MAX:
                self.wrong.append(sentence)

    def measure_gaps(self, is_on: bool) -> None:
        """Start or stop counting the time without an acknowledgement."""
        with self._lock:
            if is_on:
                self._since = time.monotonic()
            else:
                self._max_gap_seconds = self._gap()
                self._since = None

    @property
    def max_gap_seconds(self) -> float:
        """The longest time without an acknowledgement while there was load, including the current gap; in seconds."""
        with self._lock:
            return self._gap()

    @property
    def last_acknowledged_at(self) -> float | None:
        """The time.monotonic() of the last acknowledgement; None before the first."""
        return self._last_at

    def acknowledged(self) -> list[Acknowledged]:
        """Return all acknowledgements in the oracle's form, in order of arrival."""
        with self._lock:
            answered = list(self._answered)
        return [
            Acknowledged(
                self._tenant,
                each.idempotency_key,
                str(compute_intent_id(self._tenant, each.idempotency_key)),
                each.partition,
                each.offset,
                each.digest.hex(),
            )
            for each in answered
        ]

    def _gap(self) -> float:
        open_gap = 0.0 if self._since is None else time.monotonic() - self._since
        return max(self._max_gap_seconds, open_gap)
