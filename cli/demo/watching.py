"""Progress of the pipeline: the number of intents sent, posted, relayed, reconciled and audited, and the lag."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from db.operations import LaneProgress, list_lane_progress, open_glance
from domain.errors import LedgerlineError

POLL_SECONDS: Final = 0.4
RATE_WINDOW_SECONDS: Final = 4.0
METRICS_SECONDS_MAX: Final = 2.0
STAGES: Final = ("sent", "posted", "relayed", "reconciled", "audited")


class WaitError(LedgerlineError):
    """The pipeline did not reach the expected count in time."""


@dataclass(frozen=True)
class Snapshot:
    """The progress of each stage at one moment, counted since the ledger was empty."""

    time_seconds: float
    """The time of the snapshot, on the monotonic clock."""
    counts: dict[str, int]
    lags: dict[int, int]
    """By lane, the journal rows that audit or reconciliation has not read, whichever of the two is further behind."""


class PipelineWatch:
    """A context manager that polls in its own thread, so as not to block the event loop of the sender.

    The sender counts `sent` through `add_sent`. `trouble` is why the last poll failed; it is empty if it succeeded.
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
        """Count intents that Kafka has accepted."""
        self._sent += intents

    @property
    def sent(self) -> int:
        """The number of intents that Kafka has accepted."""
        return self._sent

    def latest(self) -> Snapshot | None:
        """Return the last snapshot; None before the first."""
        return self._history[-1] if self._history else None

    def rates(self) -> dict[str, float]:
        """Return the intents per second of each stage, over the last 4 seconds."""
        history = list(self._history)
        if len(history) < 2:
            return dict.fromkeys(STAGES, 0.0)
        first, last = history[0], history[-1]
        seconds = max(last.time_seconds - first.time_seconds, 0.001)
        return {stage: (last.counts[stage] - first.counts[stage]) / seconds for stage in STAGES}

    def wait_for(self, stages: tuple[str, ...], count: int, timeout_seconds: float) -> float:
        """Wait until each of these stages has reached `count`; return the time of that poll, in monotonic seconds.

        Raise WaitError, which names the count of each stage, if that takes longer than `timeout_seconds`.
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
        with open_glance(self._dsn) as connection:
            lanes = list_lane_progress(connection)
        counts = {
            "sent": self._sent,
            "posted": sum(lane.next_seq for lane in lanes),
            "relayed": sum(_count_relayed(client.get(f"{url}/metrics").text) for url in self._relay_urls),
            "reconciled": sum(lane.reconciled_seq or 0 for lane in lanes),
            "audited": sum(lane.audited_seq or 0 for lane in lanes),
        }
        return Snapshot(time.monotonic(), counts, {lane.lane: _compute_lag(lane) for lane in lanes})


def _compute_lag(lane: LaneProgress) -> int:
    return lane.next_seq - min(lane.reconciled_seq or 0, lane.audited_seq or 0)


def _count_relayed(metrics: str) -> int:
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "ledgerline_relay_records_total"
    )
