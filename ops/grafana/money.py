"""The first row of every dashboard: is money safe?"""

from typing import Final

from ops.grafana.panels import (
    GREY,
    ORANGE,
    RED,
    ZERO_IS_SAFE,
    Placed,
    Query,
    Says,
    rising,
    stat,
    thresholds_of,
)

TITLE: Final = "Is money safe?"

BREAKS_OPEN: Final = 'sum(max by (found_by, kind) (ledgerline_breaks_open{job="ledgerline", state="open"}))'
BREAKS_OVERDUE: Final = 'sum(max by (found_by, kind) (ledgerline_breaks_overdue{job="ledgerline"}))'

_SIGNED: Final = 'ledgerline_audit_checkpoint_timestamp_seconds{job="ledgerline"}'
# A checkpoint is signed only where something is new. So its age counts while audit goes on, or is behind; where the
# process is gone there is no answer.
CHECKPOINT_AGE: Final = (
    f"time() - max({_SIGNED} > 0)"
    ' and on () (sum(rate(ledgerline_audited_records_total{job="ledgerline"}[5m])) > 0'
    ' or sum(max by (lane) (ledgerline_audit_lag_records{job="ledgerline"})) > 0)'
    f" or max({_SIGNED} > bool 0) * 0"
)


def money() -> list[Placed]:
    """Six tiles; all of them green is the only good answer, and grey is none."""
    return [
        stat(
            "Symmetry difference",
            Query('sum(abs(max by (currency) (ledgerline_symmetry_difference_minor{job="ledgerline"})))'),
            Says(
                "Debits minus credits over all that reconciliation has booked, in minor units, added up over the "
                "currencies without their signs. Only 0 is good. Recomputed from ledger.journal, by other code than "
                "the poster's."
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Conservation gap",
            Query('sum(abs(max by (lane) (ledgerline_conservation_gap{job="ledgerline"})))'),
            Says(
                "Intents received, less those with a fate, less those in flight, over all lanes. Anything but 0 is an "
                "intent lost or one too many."
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Breaks",
            [Query(BREAKS_OPEN, "open"), Query(BREAKS_OVERDUE, "overdue")],
            Says(
                "Differences that the provers found and nothing has resolved, and those among them that are older than "
                "their kind's term. `ledgerline status` lists them, docs/PROOF.md tells what each kind is."
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
            overrides=thresholds_of("open", ((None, GREY), (0, "green"), (1, ORANGE))),
        ),
        stat(
            "Hash chains, records",
            [
                Query('sum(max by (lane) (ledgerline_audit_verified_seq{job="ledgerline"}) + 1)', "verified"),
                Query('sum(max by (lane) (ledgerline_audit_lag_records{job="ledgerline"}))', "to verify"),
            ],
            Says("Journal records whose place in their lane's hash chain audit has verified, and those still to come."),
            unit="none",
            steps=((None, GREY), (0, "green")),
            overrides=thresholds_of("to verify", ((None, GREY), (0, "green"), (5_000, ORANGE), (100_000, RED))),
        ),
        stat(
            "Checkpoint age",
            Query(CHECKPOINT_AGE),
            Says(
                "Since audit last signed a checkpoint over all lanes, while there is something new to sign; 0 where "
                "nothing is. Signed every 10 s."
            ),
            unit="s",
            steps=rising(60, 300),
            decimals=0,
        ),
        stat(
            "Alerts firing",
            [
                Query('count(ALERTS{alertstate="firing", severity="page"}) or vector(0)', "page"),
                Query('count(ALERTS{alertstate="firing", severity="ticket"}) or vector(0)', "ticket"),
            ],
            Says(
                "Those that wake somebody, and those that wait for the morning. Each is a red band in the graphs below."
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
            overrides=thresholds_of("ticket", ((None, GREY), (0, "green"), (1, ORANGE))),
        ),
    ]
