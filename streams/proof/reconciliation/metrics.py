"""Metrics of reconciliation; docs/METRICS.md documents each. Labels are closed lists and lanes, never accounts."""

from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import Counter, Gauge

from domain.money import get_iso_exponent
from runtime.metrics import LatencyHistogram, show_age

LATENCY: Final = LatencyHistogram(
    "ledgerline_reconciliation_latency_seconds", "Time from a message's timestamp until its outcome was reconciled."
)
SYMMETRY_DIFFERENCE: Final = Gauge(
    "ledgerline_symmetry_difference_minor", "Debits less credits of everything reconciled; must be 0.", ["currency"]
)
SYMMETRY_DEBITS: Final = Gauge("ledgerline_symmetry_debits_minor", "Debits of everything reconciled.", ["currency"])
SYMMETRY_CREDITS: Final = Gauge("ledgerline_symmetry_credits_minor", "Credits of everything reconciled.", ["currency"])
OTHER_UNITS: Final = "other"
RECORDS: Final = Counter(
    "ledgerline_reconciled_records", "Journal records that reconciliation has checked.", ["outcome"]
)
EXPIRED: Final = Counter(
    "ledgerline_reconciled_expired_records", "Records whose intent retention had deleted before it was compared."
)
FATES: Final = Gauge("ledgerline_conservation_fates", "Intents of a lane by outcome.", ["lane", "outcome"])
RECEIVED: Final = Gauge(
    "ledgerline_conservation_received", "Intents that a lane of payments.intents received.", ["lane"]
)
MISSING: Final = Gauge("ledgerline_conservation_missing", "Records that the topic skipped and still owes.", ["lane"])
GAP: Final = Gauge("ledgerline_conservation_gap", "Received less all outcomes less in flight; must be 0.", ["lane"])
IN_FLIGHT: Final = Gauge("ledgerline_conservation_in_flight", "Received, without a reconciled outcome yet.", ["lane"])
LAG_RECORDS: Final = Gauge(
    "ledgerline_reconciliation_lag_records", "Journal rows of the ledger that reconciliation has not seen.", ["lane"]
)
LAG_SECONDS: Final = Gauge(
    "ledgerline_reconciliation_lag_seconds",
    "Age of the lane's first journal row that is not reconciled.",
    ["lane"],
)
FACTS_OWED: Final = Gauge(
    "ledgerline_reconciliation_lag_facts", "Facts of the books' frame that reconciliation has not seen."
)
CLEARING_AWAY: Final = Gauge(
    "ledgerline_clearing_away", "Accounts and currencies away from the balance that a rule wants.", ["rule"]
)
CLEARING_OVERDUE: Final = Gauge("ledgerline_clearing_overdue", "Those away for longer than the rule's term.", ["rule"])
CLEARING_OLDEST: Final = Gauge(
    "ledgerline_clearing_oldest_age_seconds", "How long the oldest money of a rule has been away.", ["rule"]
)
CLEARING_SWEEP_SECONDS: Final = Gauge(
    "ledgerline_clearing_sweep_seconds", "Duration of the last sweep over the accounts of symmetry rules."
)
SWEPT: Final = Counter("ledgerline_reconciliation_swept", "Stored shards and rows that sweeps have checked.", ["what"])
SWEEP_SECONDS: Final = Gauge("ledgerline_reconciliation_sweep_seconds", "Duration of the last complete sweep.")


def show_symmetry(totals: Mapping[tuple[str, str, str], tuple[int, int]]) -> None:
    """Set the gauges of every currency. `totals`: (tenant, currency, class of account) -> debits, credits, minor units.

    The difference is taken in integers for each tenant and unit, as a surplus in one must not hide a shortage in
    another. The gauge shows the largest difference.
    """
    sums: dict[str, list[int]] = {}
    differences: dict[str, dict[tuple[str, str], int]] = {}
    for (tenant, unit, _), (debits, credits) in totals.items():
        currency = unit if get_iso_exponent(unit) is not None else OTHER_UNITS
        total = sums.setdefault(currency, [0, 0])
        total[0] += debits
        total[1] += credits
        by_book = differences.setdefault(currency, {})
        by_book[tenant, unit] = by_book.get((tenant, unit), 0) + debits - credits
    for currency, (debits, credits) in sums.items():
        SYMMETRY_DEBITS.labels(currency).set(debits)
        SYMMETRY_CREDITS.labels(currency).set(credits)
        SYMMETRY_DIFFERENCE.labels(currency).set(max(differences[currency].values(), key=abs))


def show_clearing(since_times: Mapping[str, Sequence[int]], overdue: Mapping[str, int]) -> None:
    """Set the gauges of every rule. `since_times`: rule -> since when each account is away, in microseconds."""
    for rule, times in since_times.items():
        CLEARING_AWAY.labels(rule).set(len(times))
        CLEARING_OVERDUE.labels(rule).set(overdue[rule])
        show_age(CLEARING_OLDEST.labels(rule), min(times) / 1_000_000 if times else None)
