"""The metrics of breaks, which both provers set; docs/METRICS.md documents each."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import Gauge

from db.breaks import OpenBreaks
from domain.breaks import BreakKind, BreakState
from runtime.metrics import show_age

BREAKS: Final = Gauge("ledgerline_breaks_open", "Differences that are not resolved.", ["found_by", "kind", "state"])
BREAKS_AGE: Final = Gauge(
    "ledgerline_breaks_oldest_age_seconds", "How long the oldest open break has been open.", ["found_by", "kind"]
)
BREAKS_OVERDUE: Final = Gauge(
    "ledgerline_breaks_overdue", "Breaks that have been open for longer than the term of their kind.",
    ["found_by", "kind"],
)  # fmt: skip


def show_breaks(found_by: str, counts: Mapping[tuple[str, str], int], open_breaks: Mapping[str, OpenBreaks]) -> None:
    """Set the gauges of every kind and state, so that a kind without breaks reads 0.

    `counts`: (kind, state) -> number. `open_breaks`: kind -> its open breaks.
    """
    none = OpenBreaks(None, 0)
    for kind in BreakKind:
        for state in (BreakState.OPEN, BreakState.EXPLAINED):
            BREAKS.labels(found_by, kind.value, state.value).set(counts.get((kind.value, state.value), 0))
        found = open_breaks.get(kind.value, none)
        since = None if found.oldest_time is None else found.oldest_time / 1_000_000
        show_age(BREAKS_AGE.labels(found_by, kind.value), since)
        BREAKS_OVERDUE.labels(found_by, kind.value).set(found.overdue)
