"""Metrics of the proving agents; docs/METRICS.md documents each. Labels are closed lists and lanes, never accounts."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge

from domain.breaks import BreakKind, BreakState

BREAKS: Final = Gauge("ledgerline_breaks_open", "Breaks that are not resolved.", ["found_by", "kind", "state"])
RECORDS: Final = Counter(
    "ledgerline_reconciled_records", "Journal records that reconciliation has checked.", ["outcome"]
)
EXPIRED: Final = Counter(
    "ledgerline_reconciled_expired_records", "Records whose intent retention had deleted before it was compared."
)
FATES: Final = Gauge("ledgerline_conservation_fates", "Intents of a lane by what became of them.", ["lane", "outcome"])
RECEIVED: Final = Gauge(
    "ledgerline_conservation_received", "Intents that a lane of payments.intents received.", ["lane"]
)
MISSING: Final = Gauge("ledgerline_conservation_missing", "Records that the topic skipped and still owes.", ["lane"])
IN_FLIGHT: Final = Gauge("ledgerline_conservation_in_flight", "Received, without a reconciled fate yet.", ["lane"])
LAG_RECORDS: Final = Gauge(
    "ledgerline_reconciliation_lag_records", "Journal rows of the ledger that reconciliation has not seen.", ["lane"]
)
LAG_SECONDS: Final = Gauge(
    "ledgerline_reconciliation_lag_seconds",
    "Age of the newest reconciled record of a lane that has newer ones.",
    ["lane"],
)
SWEPT: Final = Counter("ledgerline_reconciliation_swept", "Stored shards and rows that sweeps have checked.", ["what"])
SWEEP_SECONDS: Final = Gauge("ledgerline_reconciliation_sweep_seconds", "Time that the last whole sweep took.")


def show_breaks(found_by: str, counts: Mapping[tuple[str, str], int]) -> None:
    """Set the gauge of every kind and state, so that one that is gone reads 0. `counts`: (kind, state) -> number."""
    for kind in BreakKind:
        for state in (BreakState.OPEN, BreakState.EXPLAINED):
            BREAKS.labels(found_by, kind.value, state.value).set(counts.get((kind.value, state.value), 0))
