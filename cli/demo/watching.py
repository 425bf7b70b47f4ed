"""Watches the pipeline while it works: how many intents are sent, posted, relayed, reconciled, audited, and the lag."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from db.operations import LaneProgress, glance, lane_progress
from domain.errors import LedgerlineError

POLL_SECONDS: Final = 0.4
RATE_WINDOW_SECONDS: Final = 4.0
METRICS_SECONDS_MAX: Final = 2.0
STAGES: Final = ("sent", "posted", "relayed", "reconciled", "audited")


class WaitError(LedgerlineError):
    """The pipeline did not get where it should in time."""


@dataclass(frozen=True)
class Snapshot:
    """How far each stage is at one moment; counts since the ledger was empty."""

    time_seconds: float
    """Monotonic."""
    counts: dict[str, int]
    lags: dict[int, int]
    """Lane -> journal rows that audit or reconciliation, whichever is further behind, has not followed."""


class PipelineWatch:
    """Polls in a thread of its own, as the event loop of the sender has other things to do; a context manager.

    `sent` is counted by the sender through `add_sent`. `trouble` is why the last poll failed, while it fails.
    """

    def __init__(self, dsn: str, relay_urls: tuple[str, ...]) -> None:
        self._dsn = dsn
        self._relay_urls = relay_urls
        self._sent = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._history: deque[Snapshot] = deque()
        self._thread = threading.Thread(target=self._run, name="pipeline-watch", daemon=True)
        self.trouble = ""

    def __enter__(self) -> "PipelineWatch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def add_sent(self, intents: int) -> None:
        """Count intents that Kafka has taken."""
        self._sent += intents

    @property
    def sent(self) -> int:
        """Intents that Kafka has taken."""
        return self._sent

    def latest(self) -> Snapshot | None:
        """The last snapshot; None before the first."""
        return self._history[-1] if self._history else None

    def rates(self) -> dict[str, float]:
        """Intents a second of each stage over the last seconds."""
        history = list(self._history)
        if len(history) < 2:
            return dict.fromkeys(STAGES, 0.0)
        first, last = history[0], history[-1]
        seconds = max(last.time_seconds - first.time_seconds, 0.001)
        return {stage: (last.counts[stage] - first.counts[stage]) / seconds for stage in STAGES}

    def wait_for(self, stages: tuple[str, ...], count: int, timeout_seconds: float) -> float:
        """Wait until each of these stages has come to `count`; returns when that was seen, in monotonic seconds.

        WaitError, which says how far each is, where that takes longer than `timeout_seconds`.
        """

        def reached() -> bool:
            latest = self.latest()
            return latest is not None and all(latest.counts[stage] >= count for stage in stages)

        with self._changed:
            if self._changed.wait_for(reached, timeout_seconds):
                return self._history[-1].time_seconds
        latest = self.latest()
        seen = (
            "nothing was seen" if latest is None else ", ".join(f"{stage} {latest.counts[stage]:,}" for stage in STAGES)
        )
        raise WaitError(
            f"After {timeout_seconds:.0f} seconds not all of {count:,} intents are {' and '.join(stages)}: {seen}"
            f"{'; ' + self.trouble if self.trouble else ''}: read the logs of the services."
        )

    def _run(self) -> None:
        with httpx.Client(timeout=METRICS_SECONDS_MAX) as client:
            while not self._stopped.wait(POLL_SECONDS):
                try:
                    snapshot = self._look(client)
                except (LedgerlineError, httpx.HTTPError) as error:
                    self.trouble = str(error) or type(error).__name__
                    continue
                self.trouble = ""
                with self._changed:
                    self._history.append(snapshot)
                    while self._history[0].time_seconds < snapshot.time_seconds - RATE_WINDOW_SECONDS:
                        self._history.popleft()
                    self._changed.notify_all()

    def _look(self, client: httpx.Client) -> Snapshot:
        with glance(self._dsn) as connection:
            lanes = lane_progress(connection)
        counts = {
            "sent": self._sent,
            "posted": sum(lane.next_seq for lane in lanes),
            "relayed": sum(_relayed(client.get(f"{url}/metrics").text) for url in self._relay_urls),
            "reconciled": sum(lane.reconciled_seq or 0 for lane in lanes),
            "audited": sum(lane.audited_seq or 0 for lane in lanes),
        }
        return Snapshot(time.monotonic(), counts, {lane.lane: _lag(lane) for lane in lanes})


def _lag(lane: LaneProgress) -> int:
    return lane.next_seq - min(lane.reconciled_seq or 0, lane.audited_seq or 0)


def _relayed(metrics: str) -> int:
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "ledgerline_relay_records_total"
    )
