"""The clock: the part that does what is due in any capability, once, whatever happens.

What is due is claimed under lock, and is done and stored as done in the same transaction. So two clocks, a crash or a
week of downtime do each thing once. Time comes through `now`, which tests move.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from db.connections import TRANSIENT, Transaction
from db.worker import WorkerConnection
from domain.errors import Outage
from runtime.metrics import show_age
from streams.capabilities import Capability, Due
from streams.effects import Caused, EffectStore
from streams.reactor import MICROSECONDS, make_reason
from streams.worker_metrics import CLOCK_DEFERRED, CLOCK_DONE, CLOCK_LATE_SECONDS

logger: Final = structlog.get_logger(__name__)

ITEMS_MAX: Final = 500
"""The most items in one transaction."""
TICK_SECONDS: Final = 0.5
DEFER_SECONDS: Final = 60
BACKOFF_SECONDS_MAX: Final = 5.0


class Clock:
    """Does what is due in all capabilities, in rounds."""

    name = "clock"

    def __init__(
        self,
        store: WorkerConnection,
        capabilities: Sequence[Capability],
        effects: EffectStore,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`now` returns microseconds since 1970."""
        self._store = store
        self._dues = [(capability.name, due) for capability in capabilities for due in capability.due]
        self._effects = effects
        self._now = now
        self.progressed_at = time.monotonic()
        """Monotonic time of the last progress, for a watchdog."""

    def missing(self) -> str | None:
        """Return None: the clock needs nothing before it runs."""
        return None

    def run(self, stop: threading.Event) -> None:
        """Do rounds until `stop` is set. Wait while Postgres is away."""
        pause_seconds = 0.1
        while not stop.is_set():
            try:
                done = self.round()
                pause_seconds = 0.1
            except (*TRANSIENT, Outage) as error:
                logger.warning("waiting", part=self.name, cause=str(error).strip(), seconds=pause_seconds)
                stop.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)
                done = 0
            self.progressed_at = time.monotonic()
            if not done:
                stop.wait(TICK_SECONDS)
        self._store.close()

    def round(self) -> int:
        """Do at most ITEMS_MAX items of each kind; return how many were due."""
        return sum(self._do(capability, due) for capability, due in self._dues)

    def _do(self, capability: str, due: Due) -> int:
        now = self._now()
        try:
            return self._do_once(capability, due, now, self._act_together)
        except (*TRANSIENT, Outage):
            raise
        except Exception:  # noqa: BLE001 - whatever a handler raises: the next attempt finds out for which item
            return self._do_once(capability, due, now, self._act_apart)

    def _do_once(
        self, capability: str, due: Due, now: int, act: Callable[[Transaction, str, Due, Sequence[Any], int], int]
    ) -> int:
        with self._store.transaction() as transaction:
            items = due.claim(transaction, now, ITEMS_MAX)
            deferred = act(transaction, capability, due, items, now) if items else 0
        late_seconds = max((now - due.get_due_time(items[0])) / MICROSECONDS, 0.0) if items else 0.0
        # It grows until the next round that succeeds, as nothing is done meanwhile.
        show_age(CLOCK_LATE_SECONDS.labels(due.name), time.time() - late_seconds)
        CLOCK_DONE.labels(due.name).inc(len(items) - deferred)
        CLOCK_DEFERRED.labels(due.name).inc(deferred)
        return len(items)

    def _act_together(self, transaction: Transaction, capability: str, due: Due, items: Sequence[Any], now: int) -> int:
        """Do all items. Any failure fails the round. Return 0, the number of deferred items."""
        effects = due.act_all(transaction, items, now)
        self._effects.store(transaction, [Caused(capability, effects)])
        return 0

    def _act_apart(self, transaction: Transaction, capability: str, due: Due, items: Sequence[Any], now: int) -> int:
        """Do each item in a savepoint of its own; return how many failed and are deferred."""
        deferred = 0
        for item in items:
            try:
                with transaction.transaction():
                    effects = due.act_all(transaction, [item], now)
                    self._effects.store(transaction, [Caused(capability, effects)])
            except (*TRANSIENT, Outage):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is the reason for deferring
                # The text may name people or amounts, so the log has only the class.
                logger.error("due item deferred", due=due.name, error=type(error).__name__)  # noqa: TRY400 - as above
                due.defer(transaction, item, now + DEFER_SECONDS * MICROSECONDS, make_reason(error))
                deferred += 1
        return deferred
