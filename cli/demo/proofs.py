"""The steps that prove the books, and the step that alters a row to show that the proof finds it."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from cli.demo.demo import TENANT, Demo
from cli.demo.money import compute_expected_balances
from db import demo as books
from db.operations import list_lane_progress, open_glance
from ops.embedded.process import wait_until
from streams.proof.audit.full import Report, verify
from streams.proof.reconciliation.full import recompute

ALTERED_BY_MINOR: Final = 100_00
AGENT_SECONDS_MAX: Final = 40.0


def compare_outcomes(demo: Demo) -> str:
    """Compare the number of journal rows by outcome and reason with what was sent."""
    found = books.count_outcomes(demo.ledger.postgres_dsn)
    demo.check("journal rows by outcome and reason", _name_counts(demo.expected), _name_counts(found))
    demo.figures["outcomes"] = dict(_count_by_outcome(found))
    demo.figures["expected_outcomes"] = dict(_count_by_outcome(demo.expected))
    demo.figures["received"] = sum(found.values())
    return ", ".join(f"{count:,} {outcome}" for outcome, count in _count_by_outcome(found).most_common())


def compare_balances(demo: Demo) -> str:
    """Compare every balance of every account with the expected one, and debits with credits by currency."""
    found = books.read_balances(demo.ledger.postgres_dsn, TENANT)
    expected = compute_expected_balances(demo)
    wrong = {where: (expected.get(where), found.get(where)) for where in expected.keys() | found.keys()
             if expected.get(where) != found.get(where)}  # fmt: skip
    demo.check("balances that are not as made", {}, {" ".join(where): pair for where, pair in list(wrong.items())[:5]})
    sums = books.sum_currencies(demo.ledger.postgres_dsn)
    demo.check(
        "currencies whose debits are not its credits",
        [],
        [s.currency for s in sums if s.debits_minor != s.credits_minor],
    )
    demo.figures["sums"] = [found._asdict() for found in sums]
    with open_glance(demo.ledger.postgres_dsn) as connection:
        lanes = list_lane_progress(connection)
    demo.figures["heads"] = {lane.lane: {"seq": lane.next_seq - 1, "head": lane.head.hex()} for lane in lanes}
    return f"{len(found):,} balances in {len(sums)} currencies are what was made"


def reconcile(demo: Demo) -> str:
    """Recompute conservation, symmetry, faithfulness and balances from the topics, without any saved state."""
    report = recompute(
        kafka=demo.ledger.kafka,
        dsn=demo.ledger.postgres_dsn,
        registry=demo.ledger.registry,
        topics=demo.topics,
        progress=_make_progress(demo),
    )
    demo.check("breaks found by reconciliation", [], [finding.detail for finding in report.findings])
    demo.check("records reconciled", demo.sent, report.records)
    return f"{report.records:,} records and {report.shards:,} balances at {report.records_per_second:,}/s"


def verify_clean(demo: Demo) -> str:
    """Recompute every hash from the topic and from the tables, and check every checkpoint's signature."""
    report = _verify(demo)
    demo.check("faults found by audit", [], [finding.detail for finding in report.findings])
    demo.check("records audited", demo.sent, report.records)
    return f"{report.records:,} records, {report.checkpoints} signed checkpoints at {report.records_per_second:,}/s"


def alter(demo: Demo) -> str:
    """Raise both legs of one posted row, so that it still balances; only a superuser can bypass the triggers so."""
    demo.victim = books.choose_victim(demo.ledger.postgres_dsn)
    lane, seq = demo.victim
    legs = books.alter_amounts(demo.ledger.postgres_dsn, lane, seq, ALTERED_BY_MINOR)
    demo.check("legs altered", 2, legs)
    return f"lane {lane}, seq {seq:,}: both legs raised by {ALTERED_BY_MINOR:,} minor units, so that they still balance"


def verify_altered(demo: Demo) -> str:
    """Check that the full verification and the running audit agent both name exactly the altered row."""
    findings = _verify(demo).findings
    demo.check("rows named by the verification", [demo.victim], sorted({(found.lane, found.seq) for found in findings}))
    wait_until(lambda: bool(books.open_audit_breaks(demo.ledger.postgres_dsn)), timeout_seconds=AGENT_SECONDS_MAX)
    demo.check("rows named by the running agent", [demo.victim], books.open_audit_breaks(demo.ledger.postgres_dsn))
    lane, seq = demo.victim
    return f"lane {lane}, seq {seq:,}, and nothing else; so does the running agent by itself"


def restore(demo: Demo) -> str:
    """Restore the amounts; check that the verification is clean again and that the agent resolves its break."""
    lane, seq = demo.victim
    books.alter_amounts(demo.ledger.postgres_dsn, lane, seq, -ALTERED_BY_MINOR)
    demo.check("faults after the restoration", [], [finding.detail for finding in _verify(demo).findings])
    wait_until(lambda: not books.open_audit_breaks(demo.ledger.postgres_dsn), timeout_seconds=AGENT_SECONDS_MAX)
    demo.check("breaks that the agent has not resolved", [], books.open_audit_breaks(demo.ledger.postgres_dsn))
    return "clean; the agent's break resolved itself"


def _verify(demo: Demo) -> Report:
    return verify(
        kafka=demo.ledger.kafka,
        dsn=demo.ledger.postgres_dsn,
        registry=demo.ledger.registry,
        topics=demo.topics,
        progress=_make_progress(demo),
    )


def _make_progress(demo: Demo) -> Callable[[str, int, int], None]:
    return lambda step, done, total: demo.screen.note(f"{step} {done:,} of {total:,}")


def _count_by_outcome(counts: dict[tuple[str, str], int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (outcome, _reason), count in counts.items():
        total[outcome] += count
    return total


def _name_counts(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    return {f"{outcome} {reason}".strip(): count for (outcome, reason), count in sorted(counts.items()) if count}
