"""A posted row that is changed into a rejection before its relay is a break; an honest rejection never is."""

from collections.abc import Iterator

import pytest

from domain.outcomes import Reason
from streams.proof.reconciliation.full import recompute
from streams.proof.reconciliation.service import Reconciliation, wire_reconciliation
from tests.posting_bench import leg
from tests.proving_bench import ProvingBench
from tests.tampering import turn_into_rejected


@pytest.fixture
def agent(proving: ProvingBench) -> Iterator[Reconciliation]:
    made = wire_reconciliation(proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0)
    yield made
    made.close()


def test_a_posted_row_turned_into_a_rejection_is_named_under_every_reason(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    """For each reason, a posted row is changed into a rejection before the relay runs, so the relay publishes that."""
    proving.tamper("UPDATE ledger.books_version SET changed_time = now() - interval '1 day'")
    proving.send(proving.transfer("in", "external:bank", "users:1:wallet", 1000))
    proving.post_and_relay()
    said = {}
    for number, reason in enumerate((Reason.INSUFFICIENT_FUNDS, *Reason), 1):
        proving.send(proving.transfer(f"out-{number}", "users:1:wallet", "users:2:wallet", 7))
        assert proving.post() == ["posted"]
        turn_into_rejected(proving, 0, reason.value)
        proving.relay_all()
        proving.feed(agent.reconciler)
        said["faithfulness", f"lane 0 seq {number}"] = "open"
    agent.chores.sweep_all()
    # No other check finds the change: malformed and unsupported rows keep no text, and these rows have none.
    assert proving.breaks("reconciliation") == said
    report = recompute(kafka=proving.kafka, dsn=proving.dsn, registry=proving.registry, topics=proving.topics)
    assert {(found.kind.value, found.subject): "open" for found in report.findings} == said


def test_what_came_in_by_another_lane_just_before_is_left_unjudged(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    """Within the margin (120 s) the order of records of two lanes is not known; within one lane it is."""
    proving.send(proving.transfer("in", "external:bank", "users:1:wallet", 1000), lane=1)
    proving.post_and_relay()
    proving.send(proving.transfer("out", "users:1:wallet", "users:2:wallet", 7))
    assert proving.post() == ["posted"]
    turn_into_rejected(proving, 0, "insufficient_funds")
    proving.relay_all()
    proving.feed(agent.reconciler)
    assert proving.breaks("reconciliation") == {}


def test_honest_rejections_of_every_kind_are_none(proving: ProvingBench, agent: Reconciliation) -> None:
    proving.tamper("UPDATE ledger.books_version SET changed_time = now() - interval '1 day'")
    first = proving.transfer("in", "external:bank", "users:1:wallet", 700)
    back = {**proving.transfer("back", "users:1:wallet", "external:bank", 1), "type": "reversal", "legs": []}
    cases = [
        ({**proving.transfer("m", "external:bank", "users:1:wallet", 5), "reverses": first["intent_id"]}, "malformed"),
        ({**proving.transfer("t", "external:bank", "users:1:wallet", 5), "type": "unknown"}, "unsupported_type"),
        ({**proving.transfer("n", "external:bank", "users:1:wallet", 5), "legs": []}, "no_legs"),
        (proving.transfer("z", "external:bank", "users:1:wallet", 0), "invalid_amount"),
        (
            {
                **proving.transfer("u", "external:bank", "users:1:wallet", 5),
                "legs": [leg("external:bank", "debit", 5), leg("users:1:wallet", "credit", 6)],
            },
            "unbalanced",
        ),
        (proving.transfer("v", "external:bank", "users:1:wallet", 5, value_time=2**60), "value_time_out_of_range"),
        (proving.transfer("c", "external:bank", "users:1:wallet", 5, "NIX"), "unknown_currency"),
        (proving.transfer("a", "external:bank", "no where\x00", 5), "malformed"),
        ({**back, **proving_name(proving, "b1"), "reverses": first["intent_id"]}, "original_not_found"),
        (first, "posted"),
        ({**back, **proving_name(proving, "b2"), "reverses": first["intent_id"]}, "posted"),
        ({**back, **proving_name(proving, "b3"), "reverses": first["intent_id"]}, "reversal_exceeds_original"),
        (
            {**back, **proving_name(proving, "b4"), "reverses": proving_name(proving, "b2")["intent_id"]},
            "original_not_reversible",
        ),
        (proving.transfer("f", "users:1:wallet", "external:bank", 5), "insufficient_funds"),
        (proving.transfer("s", "users:1:wallet", "users:1:wallet", 5), "insufficient_funds"),
        (
            {
                **proving.transfer("o", "external:bank", "external:till", 5),
                "legs": [
                    leg(account, direction, amount_minor)
                    for account, direction in (("external:bank", "debit"), ("external:till", "credit"))
                    for amount_minor in (2**63 - 1, 1)
                ],
            },
            "amount_overflow",
        ),
    ]
    for record, _ in cases:
        proving.send(record)
    assert proving.post_and_relay() == [outcome for _, outcome in cases]
    proving.feed(agent.reconciler)
    agent.chores.sweep_all()
    assert proving.breaks("reconciliation") == {}


def proving_name(bench: ProvingBench, key: str) -> dict[str, str]:
    """Return the members that name an intent of this key."""
    record = bench.transfer(key, "external:bank", "users:1:wallet", 1)
    return {name: record[name] for name in ("intent_id", "idempotency_key")}
