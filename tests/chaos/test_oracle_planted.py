"""The oracle excuses a planted fault that was found.

It names every other finding, and every planted fault that was missed.
"""

import pytest

from tests.chaos.oracle_bench import DELETED, ENTRY, ROW, SHARD, OracleBench, at, shard, spoilt
from tools.chaos.oracle import Planted


def test_breaks_that_nobody_planted_are_named_whatever_their_state(honest: OracleBench) -> None:
    planted = honest.add_break("audit", "stored", "lane 0 seq 3", 0, 3)
    honest.add_break("reconciliation", "faithfulness", "lane 1 seq 2", 1, 2, "explained")
    honest.add_break("reconciliation", "symmetry", "default EUR", state="resolved")
    others = {
        ("breaks", "reconciliation faithfulness lane 1 seq 2"),
        ("false_break", "reconciliation symmetry default EUR"),
    }
    assert honest.found() == {("breaks", "audit stored lane 0 seq 3"), *others}
    assert honest.found(planted) == others


def test_a_planted_break_that_was_not_found_is_named(honest: OracleBench) -> None:
    assert honest.found(Planted("audit", "stored", 0, 3)) == {("planted", "audit stored lane 0 seq 3")}


PLANTS = {"altered": ENTRY, "deleted": DELETED}


@pytest.mark.parametrize("statement", PLANTS.values(), ids=PLANTS)
@pytest.mark.parametrize("key", ["in-2", "in-4", "spend"])
def test_what_was_planted_and_found_is_excused_and_nothing_beside_it(
    honest: OracleBench, statement: str, key: str
) -> None:
    lane, seq = spoilt(honest, key, statement)
    planted = honest.add_break("audit", "stored", f"lane {lane} seq {seq}", lane, seq)
    assert honest.found(planted) == set()
    other = spoilt(honest, "in-1", ROW.format("reference = 'other'"))
    assert honest.found(planted) == {at(check, *other) for check in ("topic_equals_table", "chains", "faithful")}


def test_a_planted_shard_is_excused_where_it_was_found_and_another_is_not(honest: OracleBench) -> None:
    honest.tamper(SHARD)
    planted = honest.add_break("reconciliation", "balance", "default users:2:wallet EUR lane 0", 0)
    assert honest.found(planted) == set()
    honest.tamper(SHARD.replace("users:2", "users:0"))
    assert honest.found(planted) == {shard("users:0:wallet", 0)}


def test_a_planted_row_beyond_the_lane_is_excused(honest: OracleBench) -> None:
    lane, seq = honest.seq_of("too-much", "rejected")
    honest.tamper("CREATE TABLE copied AS SELECT * FROM ledger.journal WHERE lane = %s AND seq = %s", lane, seq)
    honest.tamper("UPDATE copied SET seq = seq + 50, intent_id = gen_random_uuid()")
    honest.tamper("INSERT INTO ledger.journal SELECT * FROM copied")
    place = (lane, seq + 50)
    assert honest.found() == {at(check, *place) for check in ("one_fate", "topic_equals_table", "chains", "faithful")}
    assert honest.found(honest.add_break("reconciliation", "entries", f"lane {lane} seq {seq + 50}", *place)) == set()


def test_a_planted_gap_in_the_topic_is_excused(ledger: OracleBench) -> None:
    for number in range(4):
        ledger.ask(ledger.transfer(f"in-{number}", "external:bank", "users:1:wallet", 10))
    ledger.post()
    ledger.publish([record for record in ledger.published(0) if record["seq"] != 2])
    planted = ledger.add_break("reconciliation", "conservation", "lane 0 seq 2", 0, 2)
    assert ledger.found(planted) == set()
