"""The worker's row: does the work of the capabilities move, and what waits for people?"""

from ops.grafana.panels import ZERO_IS_SAFE, Placed, Query, Says, graph, stat
from ops.grafana.promql import OURS


def worker() -> list[Placed]:
    """Return the panels of the row."""
    return [
        stat(
            "Parked work",
            Query(f"sum(max by (part) (ledgerline_worker_parked{{{OURS}}}))"),
            Says(
                "Work whose handler failed, and work that waits behind it: ledgerline parked list.",
                alerts=("LedgerlineWorkParked",),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
            width=6,
            height=8,
        ),
        graph(
            "Intents that wait for Kafka",
            Query(f"max(ledgerline_worker_intents_oldest_seconds{{{OURS}}})", "the oldest"),
            Says(
                "How long the oldest intent that a capability handed over has waited.",
                alerts=("LedgerlineHandedOverStuck",),
            ),
            unit="s",
            flat_at_zero=True,
            width=6,
        ),
        graph(
            "The clock is late",
            Query(f"max by (due) (ledgerline_clock_late_seconds{{{OURS}}})", "{{due}}"),
            Says("How late the last due item was taken.", alerts=("LedgerlineClockLate",)),
            unit="s",
            flat_at_zero=True,
            width=6,
        ),
        graph(
            "Reactions and outcomes are behind",
            Query(f'max by (agent) (ledgerline_agent_lag_seconds{{{OURS}, agent=~"worker.*"}})', "{{agent}}"),
            Says("The longest wait of a record before the worker.", alerts=("LedgerlineWorkerBehind",)),
            unit="s",
            flat_at_zero=True,
            width=6,
        ),
        graph(
            "Webhooks that wait",
            Query(f"max(ledgerline_webhooks_oldest_seconds{{{OURS}}})", "the oldest"),
            Says(
                "How long the oldest delivery has waited for its first attempt.", alerts=("LedgerlineWebhooksWaiting",)
            ),
            unit="s",
            flat_at_zero=True,
            width=12,
        ),
        stat(
            "Webhooks disabled",
            Query(f"max(ledgerline_webhooks_disabled_endpoints{{{OURS}}})"),
            Says("Webhooks of tenants that the worker disabled.", alerts=("LedgerlineWebhooksDisabled",)),
            unit="none",
            steps=ZERO_IS_SAFE,
            width=12,
            height=8,
        ),
    ]
