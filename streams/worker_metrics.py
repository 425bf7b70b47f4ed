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
INTENTS_SENT: Final = Counter(
    "ledgerline_worker_intents_sent", "Intents of capabilities that Kafka has acknowledged."
)
INTENTS_WAITING: Final = Gauge(
    "ledgerline_worker_intents_waiting", "Intents of capabilities that Kafka has not acknowledged yet."
)
INTENTS_OLDEST_SECONDS: Final = Gauge(
    "ledgerline_worker_intents_oldest_seconds", "How long the oldest intent of a capability has waited for Kafka."
)
CLOCK_DONE: Final = Counter("ledgerline_clock_done", "Due items that are done, by what fell due.", ["due"])
CLOCK_DEFERRED: Final = Counter("ledgerline_clock_deferred", "Due items whose handler failed.", ["due"])
CLOCK_LATE_SECONDS: Final = Gauge(
    "ledgerline_clock_late_seconds", "How late the last item came that the clock took, by what fell due.", ["due"]
)
STANDBY: Final = Gauge(
    "ledgerline_worker_standby", "1 if another worker runs this part, and this one stands by.", ["part"]
)
