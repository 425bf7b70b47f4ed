"""The frame of the books: if the database's owner alters it without a fact, a break names the row and both values."""

from collections.abc import Iterator

import pytest

from db.books import add_tenant, add_unit, remove_chart_pattern, set_chart_pattern
from db.connections import connect
from domain.chart import AccountClass, ChartPattern
from streams.proof.reconciliation.full import recompute
from streams.proof.reconciliation.service import Reconciliation, wire_reconciliation
from tests.proving_bench import ProvingBench

LINE = ChartPattern("loans:**", AccountClass.ASSET, 1, 0, frozenset({"EUR"}))


@pytest.fixture
def agent(proving: ProvingBench) -> Iterator[Reconciliation]:
    """Yield a reconciling worker that has read a whole ledger with a unit, a chart line and two accounts."""
    with connect(proving.dsn, "ledgerline_operator", autocommit=True) as operator:
        add_unit(operator, "default", "MILES", 2, done_by="ann")
        set_chart_pattern(operator, "default", LINE, done_by="ann")
    for lane in (0, 1):
        proving.send(proving.transfer(f"k{lane}", "external:bank", f"users:{lane}:wallet", 100), lane)
        proving.post()  # one batch for each lane, so that each lane opens an account
    proving.relay_all()
    made = wire_reconciliation(proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0)
    proving.feed(made.reconciler)
    made.chores.sweep_all()
    assert proving.breaks("reconciliation") == {}
    yield made
    made.close()


def recomputed(bench: ProvingBench) -> dict[tuple[str, str], str]:
    report = recompute(
        kafka=bench.kafka, dsn=bench.dsn, registry=bench.registry, topics=bench.topics, grace_seconds=1.0
    )
    return {(finding.kind.value, finding.subject): finding.detail for finding in report.findings}


def details(bench: ProvingBench) -> dict[tuple[str, str], str]:
    rows = bench.rows("SELECT kind, subject, detail FROM reconciliation.break WHERE state = 'open'")
    return {(row["kind"], row["subject"]): row["detail"] for row in rows}


WALLET = ("frame", "account default users:0:wallet")
ATTACKS: dict[str, tuple[str, tuple[str, str], str]] = {
    "a floor is removed": (
        "UPDATE ledger.account SET floor_minor = NULL WHERE address = 'users:0:wallet'",
        WALLET,
        "Its floor is none in the ledger and 0 by the facts.",
    ),
    "a class and its normal side are flipped": (
        "UPDATE ledger.account SET account_class = 'asset', normal_direction = 1 WHERE address = 'users:0:wallet'",
        WALLET,
        "Its class is asset in the ledger and liability by the facts; its normal side is debit in the ledger and"
        " credit by the facts.",
    ),
    "an opening time is altered": (
        "UPDATE ledger.account SET opened_time = '2020-01-01T00:00:00Z' WHERE address = 'users:0:wallet'",
        WALLET,
        "Its time is 1577836800000000 in the ledger and ",
    ),
    "an exponent goes from 2 to 0": (
        "UPDATE ledger.unit SET exponent = 0 WHERE code = 'MILES'",
        ("frame", "unit default MILES"),
        "Its exponent is 0 in the ledger and 2 by the facts.",
    ),
    "a lane's booked time is altered": (
        "UPDATE ledger.lane SET booked_time = 7 WHERE lane = 0",
        ("conservation", "lane 0"),
        "The ledger's lane was booked at 7, its last row at ",
    ),
    "a line's floor is removed": (
        "UPDATE ledger.chart_pattern SET floor_minor = NULL WHERE pattern = 'loans:**'",
        ("frame", "chart default loans:**"),
        "Its floor is none in the ledger and 0 by the facts.",
    ),
    "a line is removed": (
        "DELETE FROM ledger.chart_pattern WHERE pattern = 'loans:**'",
        ("frame", "chart default loans:**"),
        "The facts have the row, and the ledger lacks it.",
    ),
    "a tenant is slipped in": (
        "INSERT INTO ledger.tenant (tenant) VALUES ('mallory')",
        ("frame", "tenant mallory"),
        "The ledger has the row, and no fact added it.",
    ),
    "a tenant's time is altered": (
        "UPDATE ledger.tenant SET created_time = '2020-01-01T00:00:00Z'",
        ("frame", "tenant default"),
        "Its time is 1577836800000000 in the ledger and ",
    ),
    "the facts of a lane are gone": (
        "DELETE FROM ledger.fact WHERE chain = -2",
        ("frame", "facts chain -2"),
        "The ledger's fact seq 1 is not the one that the topic has.",
    ),
}


RECOMPUTED = {"a floor is removed", "an exponent goes from 2 to 0", "a line is removed", "the facts of a lane are gone"}
"""`ledgerline reconcile` finds all attacks; the test runs it on one attack of each kind."""
EDITED = ("tenant", "unit", "chart_pattern", "account", "lane", "fact")


def keep(bench: ProvingBench) -> None:
    """Copy the tables that the attacks edit."""
    bench.tamper("CREATE SCHEMA kept")
    for table in EDITED:
        bench.tamper(f"CREATE TABLE kept.{table} AS TABLE ledger.{table}")


def put_back(bench: ProvingBench) -> None:
    for table in EDITED:
        bench.tamper(f"DELETE FROM ledger.{table}")  # noqa: S608
        overriding = "OVERRIDING SYSTEM VALUE" if table == "account" else ""
        bench.tamper(f"INSERT INTO ledger.{table} {overriding} TABLE kept.{table}")


def test_what_the_owner_alters_in_the_frame_is_a_break_until_it_is_put_back(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    keep(proving)
    for attack, (statement, place, detail) in ATTACKS.items():
        proving.tamper(statement)
        agent.chores.sweep_all()
        found = details(proving)
        assert list(found) == [place], attack
        assert found[place].startswith(detail), attack
        if attack in RECOMPUTED:
            found = recomputed(proving)
            assert list(found) == [place], attack
            assert found[place].startswith("The ledger's fact seq 0" if "fact seq" in detail else detail), attack
        put_back(proving)
        agent.chores.sweep_all()
        assert proving.breaks("reconciliation") == {}, attack
    assert recomputed(proving) == {}


def test_facts_that_were_rewritten_with_the_row_are_a_break(proving: ProvingBench, agent: Reconciliation) -> None:
    """The owner alters row and fact and computes the chain again, but the topic has the original chain."""
    proving.tamper("UPDATE ledger.unit SET exponent = 0 WHERE code = 'MILES'")
    proving.tamper("UPDATE ledger.fact SET exponent = 0 WHERE name = 'MILES'")
    rows = proving.rows("SELECT seq FROM ledger.fact WHERE chain = -1 ORDER BY seq")
    for row in rows:
        proving.tamper(
            "UPDATE ledger.fact AS f SET hash = sha256(coalesce((SELECT b.hash FROM ledger.fact AS b WHERE b.chain = -1"
            " AND b.seq = f.seq - 1), decode(repeat('00', 32), 'hex')) || convert_to(ledger.fact_json(f), 'UTF8'))"
            " WHERE chain = -1 AND seq = %s",
            row["seq"],
        )
    proving.tamper(
        "UPDATE ledger.fact_chain SET head = (SELECT hash FROM ledger.fact WHERE chain = -1 ORDER BY seq DESC LIMIT 1)"
        " WHERE chain = -1"
    )
    agent.chores.sweep_all()
    found = details(proving)
    assert set(found) == {("frame", "facts chain -1"), ("frame", "unit default MILES")}
    assert set(recomputed(proving)) == set(found)


def test_what_operators_change_is_no_break_before_and_after_it_is_relayed(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    with connect(proving.dsn, "ledgerline_operator", autocommit=True) as operator:
        add_tenant(operator, "other", done_by="ann")
        set_chart_pattern(operator, "default", LINE._replace(floor_minor=None), done_by="ann")
        remove_chart_pattern(operator, "default", "merchants:**", done_by="ben")
    agent.chores.sweep_all()
    assert proving.breaks("reconciliation") == {}
    proving.relay_all()
    agent.chores.sweep_all()
    assert proving.breaks("reconciliation") == {}
    assert recomputed(proving) == {}
    told = proving.rows("SELECT author, part, change, name FROM ledger.fact WHERE author = 'ben'")
    assert told == [{"author": "ben", "part": "chart", "change": "removed", "name": "merchants:**"}]
