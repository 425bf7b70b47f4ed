"""Symmetry rules on real Kafka and Postgres: money that does not come back in time is a break that names the rule."""

import time
from collections.abc import Callable, Iterator

import pytest

from domain.symmetry import parse_rules
from streams.proof.reconciliation.service import Reconciliation, wire_reconciliation
from tests.proving_bench import ProvingBench

Wire = Callable[[str], Reconciliation]
HOUR_MICROSECONDS = 3_600_000_000


@pytest.fixture
def wire(proving: ProvingBench) -> Iterator[Wire]:
    made = []

    def make(rules: str) -> Reconciliation:
        parts = wire_reconciliation(
            proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0, parse_rules(rules)
        )
        made.append(parts)
        return parts

    yield make
    for parts in made:
        parts.close()


def prove(bench: ProvingBench, agent: Reconciliation) -> dict[tuple[str, str], str]:
    bench.post_and_relay()
    bench.feed(agent.reconciler)
    agent.chores.sweep_all()
    return bench.breaks("reconciliation")


def age(bench: ProvingBench) -> None:
    """Let everything that is unmatched be an hour older."""
    bench.tamper("UPDATE reconciliation.unmatched SET booked_time = booked_time - %s", HOUR_MICROSECONDS)


RULE = "external-in=clearing:**:0:60"
BREAK = ("clearing", "default clearing:bank EUR rule external-in")


def test_money_that_is_late_is_a_break_until_it_is_back(proving: ProvingBench, wire: Wire) -> None:
    agent = wire(RULE)
    proving.send(proving.transfer("out", "clearing:bank", "users:1:wallet", 700), 0)
    assert prove(proving, agent) == {}
    age(proving)
    assert prove(proving, agent) == {BREAK: "open"}
    proving.send(proving.transfer("part", "external:bank", "clearing:bank", 300), 1)
    assert prove(proving, agent) == {BREAK: "open"}
    assert "away by 400" in proving.rows("SELECT detail FROM reconciliation.break")[0]["detail"]
    proving.send(proving.transfer("rest", "external:bank", "clearing:bank", 400), 1)
    assert prove(proving, agent) == {}
    assert proving.breaks("reconciliation", "resolved") == {BREAK: "resolved"}
    assert proving.rows("SELECT * FROM reconciliation.unmatched") == []


def test_money_that_comes_back_in_time_is_no_break(proving: ProvingBench, wire: Wire) -> None:
    agent = wire(RULE)
    proving.send(proving.transfer("out", "clearing:bank", "users:1:wallet", 700), 0)
    proving.send(proving.transfer("back", "external:bank", "clearing:bank", 700), 1)
    assert prove(proving, agent) == {}
    age(proving)
    assert prove(proving, agent) == {}
    assert proving.rows("SELECT * FROM reconciliation.break") == []


def test_a_rule_counts_from_its_start_and_its_end_resolves_its_breaks(proving: ProvingBench, wire: Wire) -> None:
    proving.send(proving.transfer("out", "clearing:bank", "users:1:wallet", 700), 0)
    assert prove(proving, wire("")) == {}
    agent = wire(RULE)
    assert prove(proving, agent) == {}
    (row,) = proving.rows("SELECT lane, amount_minor, booked_time FROM reconciliation.unmatched")
    assert (row["lane"], row["amount_minor"]) == (-1, 700)
    assert abs(row["booked_time"] - time.time_ns() // 1000) < 60_000_000
    age(proving)
    assert prove(proving, agent) == {BREAK: "open"}
    assert prove(proving, wire("")) == {}
    assert proving.rows("SELECT * FROM reconciliation.unmatched") == []
