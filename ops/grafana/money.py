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

_TO_SIGN = (
    '(sum(max by (lane) (ledgerline_audit_lag_records{job="ledgerline"}))'
    ' + sum(max by (lane) (ledgerline_audit_unsigned_records{job="ledgerline"})))'
)
# Audit signs a checkpoint only if there are new records. After an idle night the last checkpoint is old and nothing is
# wrong: so its age counts only after a record has waited for a minute. If audit is down, or has never signed although
# records wait, the query has no result.
_WAITED = f"min_over_time({_TO_SIGN}[1m:10s]) > 0"
CHECKPOINT_AGE: Final = (
    '(time() - max(ledgerline_audit_checkpoint_timestamp_seconds{job="ledgerline"} > 0))'
    f" and on () ({_WAITED}) or on () ({_TO_SIGN} * 0 unless on () ({_WAITED}))"
)


def money() -> list[Placed]:
    """Return six tiles: the money is safe only if all of them are green; grey means no answer."""
    return [*_books(), *_proof()]


def _books() -> list[Placed]:
    return [
        stat(
            "Symmetry difference",
            Query('sum(abs(max by (currency) (ledgerline_symmetry_difference_minor{job="ledgerline"})))'),
            Says(
                "Debits minus credits over all that reconciliation has booked, in minor units, added up over the "
                "currencies without their signs. Only 0 is good. Recomputed from ledger.journal, by other code than "
                "the poster's.",
                alerts=("LedgerlineBooksNotSymmetric",),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Conservation gap",
            Query('sum(abs(max by (lane) (ledgerline_conservation_gap{job="ledgerline"})))'),
            Says(
                "Intents received, less those with a fate, less those in flight, over all lanes. Anything but 0 is an "
                "intent lost or one too many.",
                alerts=("LedgerlineConservationGap",),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Breaks",
            [Query(BREAKS_OPEN, "open"), Query(BREAKS_OVERDUE, "overdue")],
            Says(
                "Differences that the provers found and nothing has resolved, and those among them that are older than "
                "their kind's term. `ledgerline status` lists them, docs/PROOF.md tells what each kind is.",
                alerts=("LedgerlineBreakOpen", "LedgerlineBreakOverdue"),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
            overrides=thresholds_of("open", ((None, GREY), (0, "green"), (1, ORANGE))),
        ),
    ]


def _proof() -> list[Placed]:
    return [
        stat(
            "Hash chains, records",
            [
                Query('sum(max by (lane) (ledgerline_audit_verified_seq{job="ledgerline"}))', "verified"),
                Query('sum(max by (lane) (ledgerline_audit_lag_records{job="ledgerline"}))', "to verify"),
            ],
            Says(
                "Journal records whose place in their lane's hash chain audit has verified, and those still to come.",
                alerts=("LedgerlineChainBroken",),
            ),
            unit="none",
            steps=((None, GREY), (0, "green")),
            overrides=thresholds_of("to verify", ((None, GREY), (0, "green"), (5_000, ORANGE), (100_000, RED))),
        ),
        stat(
            "Checkpoint age",
            Query(CHECKPOINT_AGE),
            Says(
                "Since audit last signed a checkpoint over all lanes, once something new has waited for a minute; 0 "
                "where nothing has. Signed every 10 s.",
                alerts=("LedgerlineCheckpointLate",),
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
