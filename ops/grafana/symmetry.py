"""Symmetry of the ledger: do debits equal credits, and does every intent have exactly one outcome?"""

from ops.grafana.frame import LANE, Page
from ops.grafana.money import TITLE, money
from ops.grafana.panels import GREEN, RED, Placed, Query, Says, coloured_cells, graph, table
from ops.grafana.pipeline import OUTCOME_COLOURS
from ops.grafana.promql import OURS, PACE

_OF_LANE = f'{OURS}, lane=~"$lane"'
_NOT_ZERO = ((None, RED), (0, GREEN), (1, RED))


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="symmetry",
        title="Ledgerline: symmetry of the ledger",
        text="Debits against credits by currency, and what was received against what became of it, as recomputed by "
        "reconciliation.",
        rows={
            TITLE: money(),
            "Debits equal credits": _currencies(),
            "Money comes back in time": _clearing(),
            "Every intent has one fate": _conservation(),
        },
        variables=(LANE,),
    )


def _by_currency(metric: str) -> str:
    return f"max by (currency) (ledgerline_symmetry_{metric}_minor{{{OURS}}})"


def _currencies() -> list[Placed]:
    return [
        table(
            "Totals by currency, minor units",
            ("currency",),
            {
                "debits": _by_currency("debits"),
                "credits": _by_currency("credits"),
                "difference": _by_currency("difference"),
            },
            Says(
                "All that reconciliation has booked from ledger.journal. Registered units stand together as `other`. "
                "Above 2^53 a sum is shown rounded; the difference was taken in whole numbers before.",
                alerts=("LedgerlineBooksNotSymmetric",),
            ),
            unit="none",
            width=12,
            overrides=coloured_cells("difference", _NOT_ZERO),
        ),
        graph(
            "Difference by currency",
            Query(_by_currency("difference"), "{{currency}}"),
            Says("Debits minus credits, in minor units. A flat line at 0, always."),
            unit="none",
            minimum=None,
            flat_at_zero=True,
            width=6,
        ),
        graph(
            "Booked by currency",
            Query(f"max by (currency) (deriv(ledgerline_symmetry_debits_minor{{{OURS}}}[{PACE}]))", "{{currency}}"),
            Says("Minor units debited a second. The currencies have nothing in common but the shape."),
            unit="short",
            width=6,
        ),
    ]


def _clearing() -> list[Placed]:
    def by_rule(metric: str) -> str:
        return f"max by (rule) (ledgerline_clearing_{metric}{{{OURS}}})"

    return [
        table(
            "Accounts by symmetry rule",
            ("rule",),
            {"away": by_rule("away"), "overdue": by_rule("overdue")},
            Says(
                "Accounts, by currency, that are away from the balance that the rule wants, and those for longer than "
                "its term. Rules come from `LEDGERLINE_SYMMETRY_RULES` and from capabilities.",
                alerts=("LedgerlineClearingOverdue",),
            ),
            unit="none",
            width=12,
            overrides=coloured_cells("overdue", _NOT_ZERO),
        ),
        graph(
            "Oldest money away, by rule",
            Query(by_rule("oldest_age_seconds"), "{{rule}}"),
            Says("How long the oldest money of a rule has been away. It stays below the rule's term."),
            unit="s",
            width=12,
        ),
    ]


def _conservation() -> list[Placed]:
    def by_lane(metric: str) -> str:
        return f"max by (lane) (ledgerline_conservation_{metric}{{{_OF_LANE}}})"

    def fate(outcome: str) -> str:
        return f'max by (lane) (ledgerline_conservation_fates{{{_OF_LANE}, outcome="{outcome}"}})'

    return [
        table(
            "Intents by lane",
            ("lane",),
            {
                "received": by_lane("received"),
                "posted": fate("posted"),
                "rejected": fate("rejected"),
                "duplicate": fate("duplicate"),
                "conflict": fate("idempotency_conflict"),
                "quarantined": fate("quarantined"),
                "in flight": by_lane("in_flight"),
                "missing": by_lane("missing"),
                "gap": by_lane("gap"),
            },
            Says(
                "Received = the five fates + in flight, lane by lane; the gap is what is left over. Missing are "
                "records that ledger.journal skipped and still owes.",
                alerts=("LedgerlineConservationGap",),
            ),
            unit="none",
            width=24,
            height=7,
            overrides={**coloured_cells("gap", _NOT_ZERO), **coloured_cells("missing", _NOT_ZERO)},
        ),
        graph(
            "Fates",
            Query(
                f"sum by (outcome) (max by (lane, outcome) (ledgerline_conservation_fates{{{_OF_LANE}}}))",
                "{{outcome}}",
            ),
            Says("All intents ever received, by what became of them."),
            unit="short",
            stacked=True,
            overrides=OUTCOME_COLOURS,
        ),
        graph(
            "In flight, by lane",
            Query(by_lane("in_flight"), "lane {{lane}}"),
            Says(
                "Received, without a reconciled fate yet. It comes and goes with the traffic, and falls to 0 after it."
            ),
            unit="short",
        ),
        graph(
            "Gap and missing, by lane",
            [Query(by_lane("gap"), "lane {{lane}}: gap"), Query(by_lane("missing"), "lane {{lane}}: missing")],
            Says("Two flat lines at 0 for each lane, always."),
            unit="none",
            minimum=None,
            flat_at_zero=True,
        ),
    ]
