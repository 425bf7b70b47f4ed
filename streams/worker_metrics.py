"""The metrics of the worker's parts; docs/METRICS.md documents each."""

from typing import Final

from prometheus_client import Counter, Gauge

DONE: Final = Counter(
    "ledgerline_worker_done", "Work of handlers that is committed, by part and capability.", ["part", "capability"]
)
PARKED: Final = Counter(
    "ledgerline_worker_parkings", "Work that was parked because its handler failed, or that waits behind such work.",
    ["part", "capability"],
)  # fmt: skip
PARKED_NOW: Final = Gauge("ledgerline_worker_parked", "Work that is parked now.", ["part"])
CLOCK_DONE: Final = Counter("ledgerline_clock_done", "Due items that are done, by what fell due.", ["due"])
CLOCK_DEFERRED: Final = Counter("ledgerline_clock_deferred", "Due items whose handler failed.", ["due"])
CLOCK_LATE_SECONDS: Final = Gauge(
    "ledgerline_clock_late_seconds",
    "How long the oldest due item has waited for the clock, by what falls due.",
    ["due"],
)
