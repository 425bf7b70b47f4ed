"""Reconciliation's own shards: their memory agrees with the tables, whether a batch succeeded or not."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from streams.fenced import FenceLost, PartitionBatch
from streams.proof.reconciliation import shards
from streams.proof.reconciliation.service import Reconciliation, wire_reconciliation
from tests.posting_bench import leg
from tests.proving_bench import ProvingBench

SIDES = "SELECT tenant, address, currency, lane, debits_minor, credits_minor, seq"
OWN = f"{SIDES} FROM reconciliation.balance ORDER BY address, lane"
HELD = f"{SIDES} FROM ledger.balance JOIN ledger.account USING (account_id) ORDER BY address, lane"


@pytest.fixture
def agent(proving: ProvingBench) -> Iterator[Reconciliation]:
    made = wire_reconciliation(proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0)
    yield made
    made.close()


def pay(bench: ProvingBench, first: int, count: int = 6) -> None:
    """Post and relay transfers to three users over two lanes."""
    for number in range(first, first + count):
        bench.send(bench.transfer(f"k{number}", "external:bank", f"users:{number % 3}:wallet", 100), number % 2)
    bench.post_and_relay()


def check(bench: ProvingBench, agent: Reconciliation) -> None:
    """Check that there is no break, and that reconciliation's tables and memory hold what the ledger's tables hold."""
    assert bench.breaks("reconciliation") == {}
    held = bench.rows(HELD)
    assert bench.rows(OWN) == held
    kept = agent.reconciler._shards._shards
    by_key = {(row["tenant"], row["address"], row["currency"], row["lane"]): row for row in held}
    for key, shard in kept.items():
        row = by_key[key]
        assert (shard.debits_minor, shard.credits_minor, shard.seq) == (
            *(row["debits_minor"], row["credits_minor"], row["seq"]),
        )  # fmt: skip
        assert shard.total == [0, 0]


def test_batch_after_batch_is_added_to_what_is_known(proving: ProvingBench, agent: Reconciliation) -> None:
    for first in (0, 6, 12):
        pay(proving, first)
        assert proving.feed(agent.reconciler) == 6
        check(proving, agent)
    assert len(agent.reconciler._shards._shards) == 8, "the bank on two lanes, three users on two"
    totals = proving.rows("SELECT account_class, sum(debits_minor) AS d, sum(credits_minor) AS c"
                          " FROM reconciliation.total GROUP BY account_class")  # fmt: skip
    assert sum(row["d"] for row in totals) == sum(row["c"] for row in totals) == 1800


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE ledger.balance SET credits_minor = credits_minor + 5 WHERE lane = 0 AND account_id = {}",
        "UPDATE ledger.balance SET seq = seq - 1 WHERE lane = 0 AND account_id = {}",
        "DELETE FROM ledger.balance WHERE lane = 0 AND account_id = {}",
        "UPDATE ledger.account SET address = 'users:2:stolen' WHERE account_id = {}",
    ],
)
def test_a_shard_that_was_edited_is_found_by_the_batch_that_touches_it(
    proving: ProvingBench, agent: Reconciliation, edit: str
) -> None:
    """This needs no sweep, and the correct shards are not named."""
    pay(proving, 0)
    proving.feed(agent.reconciler)
    check(proving, agent)
    proving.send(proving.transfer("again", "external:bank", "users:2:wallet", 1), 0)
    proving.post_and_relay()
    proving.tamper(edit.format("(SELECT account_id FROM ledger.account WHERE address = 'users:2:wallet')"))
    proving.feed(agent.reconciler)
    assert proving.breaks("reconciliation") == {("balance", "default users:2:wallet EUR lane 0"): "open"}


def test_a_ledger_that_is_ahead_is_no_break(proving: ProvingBench, agent: Reconciliation) -> None:
    pay(proving, 0)
    pay(proving, 6)
    messages = {lane: proving.read(proving.topics.journal, lane, 0) for lane in (0, 1)}
    positions = agent.reconciler.positions(proving.topics.journal, (0, 1))
    assert positions == {0: 0, 1: 0}
    for lane, (found, _) in messages.items():
        for message in found:
            part = PartitionBatch(proving.topics.journal, lane, positions[lane], [message], message.offset + 1)
            agent.reconciler.handle([part])
            positions[lane] = part.end_offset
    check(proving, agent)
    assert proving.breaks("reconciliation", "resolved") == {}


def test_a_batch_that_did_not_come_through_is_forgotten(
    proving: ProvingBench, agent: Reconciliation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pay(proving, 0)
    proving.feed(agent.reconciler)
    pay(proving, 6)

    def fails(*_: Any) -> None:
        raise psycopg.OperationalError("the server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(agent.reconciler.breaks, "record", fails)
        with pytest.raises(psycopg.OperationalError):
            proving.feed(agent.reconciler)
    assert agent.reconciler._shards._shards == {}
    proving.feed(agent.reconciler)
    check(proving, agent)


def test_lanes_that_were_rewound_are_added_up_anew(proving: ProvingBench, agent: Reconciliation) -> None:
    pay(proving, 0)
    proving.feed(agent.reconciler)
    proving.rows("SELECT reconciliation.rewind(ARRAY[0, 1], 'test')")
    with pytest.raises(FenceLost):
        agent.reconciler.idle()
    proving.feed(agent.reconciler)
    check(proving, agent)


def test_what_has_no_room_in_memory_is_read_again(
    proving: ProvingBench, agent: Reconciliation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARDS_CACHED_MAX", 4)
    for first in (0, 2, 4, 6):
        pay(proving, first, 2)
        proving.feed(agent.reconciler)
        check(proving, agent)
        assert len(agent.reconciler._shards._shards) <= 4


def test_sums_beyond_64_bits_are_compared_as_all_others(proving: ProvingBench, agent: Reconciliation) -> None:
    for number in range(4):
        proving.send(proving.transfer(f"k{number}", "external:a", "external:b", 2**63 - 1), lane=0)
        proving.post_and_relay()
        proving.feed(agent.reconciler)
        check(proving, agent)
    agent.chores.sweep_all()
    check(proving, agent)
    proving.tamper("UPDATE ledger.balance SET debits_minor = debits_minor + 1 WHERE debits_minor > 2^63")
    agent.chores.sweep_all()
    assert proving.breaks("reconciliation") == {("balance", "default external:a EUR lane 0"): "open"}


def test_sums_that_no_ledger_has_posted_are_a_break(proving: ProvingBench, agent: Reconciliation) -> None:
    """The records are forged, each with the largest amount of a leg, on an account that is open and one that is not."""
    pay(proving, 0, 1)
    proving.feed(agent.reconciler)
    record = {
        **{"lane": 0, "outcome": "posted", "reason": "", "detail": "", "tenant": "default", "fingerprint": bytes(32)},
        **{"intent_id": None, "idempotency_key": "k", "type": "transfer", "reverses": None, "reference": None},
        **{"metadata": {}, "source_topic": proving.topics.intents, "value_time": 0, "booked_time": 2**50},
        **{"previous_hash": bytes(32), "hash": bytes(32)},
        "legs": [leg("external:bank", "debit", 2**63 - 1), leg("users:new:wallet", "credit", 2**63 - 1)],
    }
    for seq in (1, 2):
        proving.put_record({**record, "seq": seq, "source_offset": seq})
    proving.feed(agent.reconciler)
    found = proving.breaks("reconciliation")
    assert ("balance", "default external:bank EUR lane 0") in found
    assert ("balance", "default users:new:wallet EUR lane 0") in found
    assert proving.rows("SELECT debits_minor FROM reconciliation.balance WHERE address = 'external:bank'") == [
        {"debits_minor": 100 + 2 * (2**63 - 1)}
    ]
