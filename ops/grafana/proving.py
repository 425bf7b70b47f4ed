"""Reconciliation and audit: are the provers up to date, and what have they found?"""

from ops.grafana.frame import LANE, Page
from ops.grafana.money import CHECKPOINT_AGE, TITLE, money
from ops.grafana.panels import GREEN, ORANGE, RED, Placed, Query, Says, coloured_cells, fixed_colours, graph, table
from ops.grafana.pipeline import OUTCOME_COLOURS
from ops.grafana.promql import OURS, quantiles, rate

_OF_LANE = f'{OURS}, lane=~"$lane"'


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="proving",
        title="Ledgerline: reconciliation and audit",
        text="What the two provers found, how far they are, and how far back they have looked again.",
        rows={
            TITLE: money(),
            "Breaks": _breaks(),
            "Reconciliation": _reconciliation(),
            "Audit": _audit(),
        },
        variables=(LANE,),
    )


def _breaks() -> list[Placed]:
    def of(metric: str, more: str = "") -> str:
        return f"max by (kind) (ledgerline_breaks_{metric}{{{OURS}{more}}})"

    zero = ((None, RED), (0, GREEN), (1, RED))
    return [
        table(
            "Breaks by kind",
            ("kind",),
            {
                "open": of("open", ', state="open"'),
                "explained": of("open", ', state="explained"'),
                "overdue": of("overdue"),
                "oldest, seconds": of("oldest_age_seconds"),
            },
            Says(
                "Every kind that there is (docs/PROOF.md), by whichever prover found more of it.",
                alerts=("LedgerlineBreakOpen", "LedgerlineBreakOverdue", "LedgerlineChainBroken"),
            ),
            unit="none",
            width=10,
            overrides={**coloured_cells("open", zero), **coloured_cells("overdue", zero)},
        ),
        graph(
            "Breaks, by state",
            Query(f"sum by (state) (max by (found_by, kind, state) (ledgerline_breaks_open{{{OURS}}}))", "{{state}}"),
            Says("What differs and is not resolved. One that later evidence explains resolves itself."),
            unit="none",
            stacked=True,
            flat_at_zero=True,
            width=7,
            overrides=fixed_colours({"open": RED, "explained": ORANGE}),
        ),
        graph(
            "Oldest break, by kind",
            Query(of("oldest_age_seconds"), "{{kind}}"),
            Says("How long the oldest break of each kind has been open."),
            unit="s",
            flat_at_zero=True,
            width=7,
        ),
    ]


def _reconciliation() -> list[Placed]:
    return [
        graph(
            "Behind the ledger, by lane",
            Query(f"max by (lane) (ledgerline_reconciliation_lag_seconds{{{_OF_LANE}}})", "lane {{lane}}"),
            Says(
                "Age of the newest reconciled record of a lane that has newer ones: what is newer is unproved.",
                alerts=("LedgerlineProverBehind",),
            ),
            unit="s",
            steps=((None, GREEN), (30, RED)),
        ),
        graph(
            "Records behind, by lane",
            Query(f"max by (lane) (ledgerline_reconciliation_lag_records{{{_OF_LANE}}})", "lane {{lane}}"),
            Says("Journal rows of the ledger that reconciliation has not seen."),
            unit="short",
        ),
        graph(
            "From accepted to reconciled",
            quantiles("ledgerline_reconciliation_latency_seconds", "within"),
            Says("From the API's accept to the proof, for 50, 95 and 99 of 100 intents."),
            unit="s",
        ),
        graph(
            "Reconciled",
            Query(rate(f"ledgerline_reconciled_records_total{{{OURS}}}", by="outcome"), "{{outcome}}"),
            Says("Records a second that were compared with their intents, by outcome."),
            unit="recps",
            stacked=True,
            overrides=OUTCOME_COLOURS,
        ),
        graph(
            "Swept",
            Query(rate(f"ledgerline_reconciliation_swept_total{{{OURS}}}", by="what"), "{{what}}"),
            Says("Stored shards and rows a second that are checked again, in the background, over and over."),
            unit="rowsps",
        ),
        graph(
            "Could not be compared, last hour",
            Query(f"sum(increase(ledgerline_reconciled_expired_records_total{{{OURS}}}[1h]))", "expired intents"),
            Says("Records whose intent retention had deleted before: their faithfulness is not proved."),
            unit="none",
            flat_at_zero=True,
        ),
    ]


def _audit() -> list[Placed]:
    return [
        graph(
            "Chain verified, by lane",
            Query(f"max by (lane) (ledgerline_audit_verified_seq{{{_OF_LANE}}})", "lane {{lane}}"),
            Says(
                "Up to which seq each lane's chain is verified. A line that stands while others rise is stuck.",
                alerts=("LedgerlineChainBroken",),
            ),
            unit="none",
            minimum=None,
        ),
        graph(
            "To verify, by lane",
            Query(f"max by (lane) (ledgerline_audit_lag_records{{{_OF_LANE}}})", "lane {{lane}}"),
            Says("Journal rows that audit has not seen."),
            unit="short",
        ),
        graph(
            "Checkpoint age over time",
            Query(CHECKPOINT_AGE, "age"),
            Says(
                "Since the newest checkpoint was signed, once something new has waited for a minute; one each 10 s.",
                alerts=("LedgerlineCheckpointLate",),
            ),
            unit="s",
            steps=((None, GREEN), (300, RED)),
        ),
        graph(
            "Audited",
            [
                Query(rate(f"ledgerline_audited_records_total{{{OURS}}}"), "as they arrive"),
                Query(rate(f"ledgerline_audit_swept_rows_total{{{OURS}}}"), "swept, stored rows"),
            ],
            Says("Records a second whose place in the chain was checked as they came, and rows that were hashed anew."),
            unit="recps",
        ),
        graph(
            "Checkpoints signed",
            Query(f"sum(increase(ledgerline_audit_checkpoints_total{{{OURS}}}[5m]))", "in 5 minutes"),
            Says("Thirty in five minutes while money moves without a pause; none while nothing is new."),
            unit="none",
        ),
        graph(
            "A whole sweep",
            [
                Query(f"max(ledgerline_audit_sweep_seconds{{{OURS}}})", "audit"),
                Query(f"max(ledgerline_reconciliation_sweep_seconds{{{OURS}}})", "reconciliation"),
            ],
            Says("Time from one end of the journal to the other. A row altered behind our back is found within it."),
            unit="s",
        ),
    ]
