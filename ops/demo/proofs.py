"""The steps that prove the books, and the one that falsifies a row to show that the proof notices."""

from collections import Counter
from typing import Final

from db import demo as books
from db.operations import glance, lane_progress
from ops.demo.demo import TENANT, Demo
from ops.demo.money import expected_balances

ALTERED_BY_MINOR: Final = 100_00


def compare_outcomes(demo: Demo) -> str:
    """Every outcome and reason, counted in the journal, against what was sent."""
    found = books.outcome_counts(demo.ledger.postgres_dsn)
    demo.check("journal rows by outcome and reason", _named(demo.expected), _named(found))
    demo.figures["outcomes"] = dict(_by_outcome(found))
    demo.figures["expected_outcomes"] = dict(_by_outcome(demo.expected))
    demo.figures["received"] = sum(found.values())
    return ", ".join(f"{count:,} {outcome}" for outcome, count in _by_outcome(found).most_common())


def compare_balances(demo: Demo) -> str:
    """Every balance of every account, against what was made; and debits against credits."""
    found = books.balances(demo.ledger.postgres_dsn, TENANT)
    expected = expected_balances(demo)
    wrong = {where: (expected.get(where), found.get(where)) for where in expected.keys() | found.keys()
             if expected.get(where) != found.get(where)}  # fmt: skip
    demo.check("balances that are not as made", {}, {" ".join(where): pair for where, pair in list(wrong.items())[:5]})
    sums = books.currency_sums(demo.ledger.postgres_dsn)
    demo.check(
        "currencies whose debits are not its credits",
        [],
        [s.currency for s in sums if s.debits_minor != s.credits_minor],
    )
    demo.figures["sums"] = [found._asdict() for found in sums]
    with glance(demo.ledger.postgres_dsn) as connection:
        lanes = lane_progress(connection)
    demo.figures["heads"] = {lane.lane: {"seq": lane.next_seq - 1, "head": lane.head.hex()} for lane in lanes}
    return f"{len(found):,} balances in {len(sums)} currencies are what was made"


def _by_outcome(counts: dict[tuple[str, str], int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (outcome, _reason), count in counts.items():
        total[outcome] += count
    return total


def _named(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    return {f"{outcome} {reason}".strip(): count for (outcome, reason), count in sorted(counts.items()) if count}


def alter(demo: Demo) -> str:
    """Raise both legs of one posted row, as only a superuser past all triggers can: it still balances."""
    demo.victim = books.choose_victim(demo.ledger.postgres_dsn)
    lane, seq = demo.victim
    legs = books.alter_amounts(demo.ledger.postgres_dsn, lane, seq, ALTERED_BY_MINOR)
    return f"lane {lane}, seq {seq:,}: {legs} legs raised by {ALTERED_BY_MINOR} minor units"


def reconcile(demo: Demo) -> str:
    """TBD."""
    return "TBD"


verify_clean = verify_altered = restore = reconcile
