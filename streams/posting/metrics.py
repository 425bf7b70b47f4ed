"""Metrics of posting; docs/METRICS.md documents each."""

import time
from typing import Final

from prometheus_client import Counter, Histogram

from runtime import tracing
from runtime.metrics import LatencyHistogram

STAGES: Final = ("read", "look_up", "lock", "decide", "write", "commit")
STAGE_SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

OUTCOMES: Final = Counter(
    "ledgerline_posting_outcomes", "Journal rows that this worker committed.", ["outcome", "reason"]
)
LATENCY: Final = LatencyHistogram(
    "ledgerline_posting_latency_seconds", "Time from a message's timestamp to the commit of its outcome."
)
_STAGE: Final = Histogram(
    "ledgerline_posting_stage_seconds",
    "Time of each stage of a posting transaction.",
    ["stage"],
    buckets=STAGE_SECONDS_BUCKETS,
)
_BY_STAGE: Final = {stage: _STAGE.labels(stage) for stage in STAGES}


def observe_read(seconds: float) -> None:
    """Observe how long it took to read a batch, before its transactions."""
    _BY_STAGE["read"].observe(seconds)
    _mark("read")


def _mark(stage: str) -> None:
    """Mark the end of a stage in the current span, if there is one."""
    span = tracing.get_current_span()
    if span is not None:
        span.mark(stage)


class Stopwatch:
    """A stopwatch for the stages of one transaction.

    A stage may run several times. The times of a failed transaction are not observed.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def done(self, stage: str) -> None:
        """Add the time since the last call to this stage."""
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._since
        self._since = now
        _mark(stage)

    def tell(self) -> None:
        """Observe the seconds of each stage that ran."""
        for stage, seconds in self._seconds.items():
            _BY_STAGE[stage].observe(seconds)
