"""Reconciliation on real Kafka and Postgres: a correct ledger passes; a planted error is a break until restored."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from runtime.schemas import parse_own_schema, read_body
from streams.fenced import FenceLost, PartitionBatch
from streams.proof.reconciliation import full
from streams.proof.reconciliation.service import Reconciliation, wire_reconciliation
from tests.posting_bench import RECORDS, leg
from tests.proving_bench import ProvingBench


@pytest.fixture
def agent(proving: ProvingBench) -> Iterator[Reconciliation]:
    made = wire_reconciliation(proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0)
    yield made
    made.close()


def busy(bench: ProvingBench) -> list[str]:
    """Post and relay intents with every outcome, on two lanes; return their fates."""
    for number in range(10):
        bench.send(bench.transfer(f"in-{number}", "external:bank", f"users:{number}:wallet", 1000 + number), number % 2)
    bench.send(bench.transfer("in-0", "external:bank", "users:0:wallet", 1000))
    bench.send(bench.transfer("in-1", "external:bank", "users:1:wallet", 999))
    bench.send(bench.transfer("too-much", "users:3:wallet", "users:4:wallet", 100_000, reference="läuft nicht 💸"))
    bench.send_bytes(b"\x00nothing")
    bench.send_bytes(None, lane=1)
    bench.send(bench.transfer("no-one", "external:bank", "users:1:wallet", 5, tenant="nobody"), lane=1)
    return bench.post_and_relay()


def prove(bench: ProvingBench, agent: Reconciliation) -> dict[tuple[str, str], str]:
    """Let the agent read everything, sweep and check again; return the unresolved breaks."""
    bench.feed(agent.reconciler)
    agent.chores.sweep_all()
    return bench.breaks("reconciliation")


def events(bench: ProvingBench) -> list[dict[str, Any]]:
    schema = parse_own_schema("ledger.breaks-value")
    return [read_body(message.value, schema) for message in bench.read(bench.topics.breaks, 0, 0)[0]]


def test_an_honest_ledger_has_no_breaks(proving: ProvingBench, agent: Reconciliation) -> None:
    fates = busy(proving)
    assert len(fates) == 16
    assert prove(proving, agent) == {}
    assert proving.breaks("reconciliation", "resolved") == {}
    lanes = proving.rows("SELECT * FROM reconciliation.lane ORDER BY lane")
    assert sum(lane["posted"] for lane in lanes) == 10
    assert sum(lane["quarantined"] for lane in lanes) == 3
    assert [lane["next_seq"] for lane in lanes] == [9, 7]


def test_aborted_transactions_are_counted_and_are_no_break(proving: ProvingBench, agent: Reconciliation) -> None:
    moves = [proving.transfer(f"t-{number}", "external:bank", "users:1:wallet", 10) for number in range(4)]
    proving.send_transaction(moves[:1], commit=True)
    proving.send_transaction(moves[1:3], commit=False)
    proving.post_and_relay()
    assert prove(proving, agent) == {}
    lane = proving.rows("SELECT * FROM reconciliation.lane ORDER BY lane")[0]
    assert (lane["posted"], lane["quarantined"], lane["next_seq"]) == (1, 4, 5)
    assert recompute(proving).findings == []


def test_a_posted_record_that_was_aborted_is_a_break(proving: ProvingBench, agent: Reconciliation) -> None:
    """A worker that reads uncommitted records would post such a record."""
    proving.send_transaction([proving.transfer("t", "external:bank", "users:1:wallet", 10)], commit=False)
    (made,) = proving.fetch((0,))
    messages, _ = proving.read(proving.topics.intents, 0, 0, committed=False)
    proving.poster.handle([made._replace(messages=messages)])
    proving.relay_all()
    assert proving.fates() == ["posted", "no_record"]
    expected = ("conservation", "lane 0 seq 0")
    assert prove(proving, agent) == {expected: "open"}
    assert [(str(finding.kind), finding.subject) for finding in recompute(proving).findings] == [expected]


def recompute(bench: ProvingBench) -> full.Report:
    return full.recompute(
        kafka=bench.kafka, dsn=bench.dsn, registry=bench.registry, topics=bench.topics, grace_seconds=0.3
    )


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_record_that_comes_late_keeps_its_break_only_if_it_is_wrong(
    proving: ProvingBench, agent: Reconciliation, is_wrong: bool
) -> None:
    busy(proving)
    messages, end = proving.read(proving.topics.journal, 0, 0)
    late = messages.pop(2)
    agent.reconciler.positions(proving.topics.journal, (0,))
    agent.reconciler.handle([PartitionBatch(proving.topics.journal, 0, 0, messages, end)])
    missing = ("conservation", "lane 0 seq 2")
    assert proving.breaks("reconciliation")[missing] == "open"
    if is_wrong:
        record = read_body(late.value, parse_own_schema("ledger.journal-value"))
        late = late._replace(value=proving.encode_journal(record | {"source_offset": 77}))
    agent.reconciler.handle([PartitionBatch(proving.topics.journal, 0, end, [late], end + 1)])
    assert (missing in proving.breaks("reconciliation")) == is_wrong
    assert (missing in proving.breaks("reconciliation", "resolved")) != is_wrong


def test_reversals_whole_and_in_parts_are_faithful(proving: ProvingBench, agent: Reconciliation) -> None:
    first = proving.transfer("one", "external:bank", "users:1:wallet", 700)
    proving.send(first)
    parts = [
        proving.transfer("back-1", "users:1:wallet", "external:bank", 200),
        {**proving.transfer("back-2", "users:1:wallet", "external:bank", 1), "legs": []},
        proving.transfer("back-3", "users:1:wallet", "external:bank", 1),
    ]
    for part in parts:
        proving.send({**part, "type": "reversal", "reverses": first["intent_id"]})
    assert proving.post_and_relay() == ["posted", "posted", "posted", "reversal_exceeds_original"]
    assert prove(proving, agent) == {}


def test_a_batch_that_was_taken_already_is_fenced(proving: ProvingBench, agent: Reconciliation) -> None:
    busy(proving)
    messages, end = proving.read(proving.topics.journal, 0, 0)
    batch = [PartitionBatch(proving.topics.journal, 0, 0, messages, end)]
    agent.reconciler.handle(batch)
    with pytest.raises(FenceLost):
        agent.reconciler.handle(batch)
    assert proving.rows("SELECT next_seq FROM reconciliation.lane") == [{"next_seq": 9}]


PLANTS = {
    "edited shard": (
        "UPDATE ledger.balance SET credits_minor = credits_minor + 5 WHERE account_id ="
        " (SELECT account_id FROM ledger.account WHERE address = 'users:2:wallet')",
        "UPDATE ledger.balance SET credits_minor = credits_minor - 5 WHERE account_id ="
        " (SELECT account_id FROM ledger.account WHERE address = 'users:2:wallet')",
        {("balance", "default users:2:wallet EUR lane 0"): "open"},
    ),
    "deleted entry": (
        "CREATE TABLE saved AS SELECT * FROM ledger.entry WHERE lane = 1 AND seq = 2 AND leg = 0;"
        "DELETE FROM ledger.entry WHERE lane = 1 AND seq = 2 AND leg = 0",
        "INSERT INTO ledger.entry SELECT * FROM saved",
        {("entries", "lane 1 seq 2"): "open"},
    ),
    "altered entry": (
        "UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = 0 AND seq = 3 AND leg = 1",
        "UPDATE ledger.entry SET amount_minor = amount_minor - 1 WHERE lane = 0 AND seq = 3 AND leg = 1",
        {("entries", "lane 0 seq 3"): "open"},
    ),
    "deleted row": (
        "CREATE TABLE saved AS SELECT * FROM ledger.journal WHERE lane = 0 AND seq = 1;"
        "DELETE FROM ledger.journal WHERE lane = 0 AND seq = 1",
        "INSERT INTO ledger.journal SELECT * FROM saved",
        {("entries", "lane 0 seq 1"): "open"},
    ),
    "inserted row": (
        "INSERT INTO ledger.journal SELECT (jsonb_populate_record(j, jsonb_build_object('seq', 9,"
        " 'intent_id', gen_random_uuid()))).* FROM ledger.journal AS j WHERE lane = 0 AND seq = 0",
        "DELETE FROM ledger.journal WHERE lane = 0 AND seq = 9",
        {("entries", "lane 0 seq 9"): "open"},
    ),
    "deleted shard": (
        "CREATE TABLE saved AS SELECT * FROM ledger.balance WHERE lane = 1 AND account_id ="
        " (SELECT account_id FROM ledger.account WHERE address = 'users:5:wallet');"
        "DELETE FROM ledger.balance USING saved WHERE balance.account_id = saved.account_id AND balance.lane = 1",
        "INSERT INTO ledger.balance SELECT * FROM saved",
        {("balance", "default users:5:wallet EUR lane 1"): "open"},
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_was_edited_is_named_exactly_and_resolves_when_restored(
    proving: ProvingBench, agent: Reconciliation, plant: str
) -> None:
    edit, restore, expected = PLANTS[plant]
    busy(proving)
    assert prove(proving, agent) == {}
    for statement in edit.split(";"):
        proving.tamper(statement)
    assert prove(proving, agent) == expected
    agent.reconciler.publish()
    proving.tamper(restore)
    assert prove(proving, agent) == {}
    assert proving.breaks("reconciliation", "resolved") == dict.fromkeys(expected, "resolved")
    agent.reconciler.publish()
    assert [event["state"] for event in events(proving)] == ["open", "resolved"]


def test_a_record_that_the_topic_skips_is_named_and_explains_the_balances(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    busy(proving)
    messages, end = proving.read(proving.topics.journal, 0, 0)
    records = [read_body(message.value, parse_own_schema("ledger.journal-value")) for message in messages]
    kept = [message for message, record in zip(messages, records, strict=True) if record["seq"] != 2]
    agent.reconciler.handle([PartitionBatch(proving.topics.journal, 0, 0, kept, end)])
    agent.chores.sweep_all()
    assert proving.breaks("reconciliation") == {
        ("conservation", "lane 0 seq 2"): "open",
        ("balance", "default external:bank EUR lane 0"): "explained",
        ("balance", "default users:4:wallet EUR lane 0"): "explained",
    }
    proving.put_record(records[2])
    assert prove(proving, agent) == {}


def test_a_repeated_record_is_dropped_and_another_under_its_number_is_a_break(
    proving: ProvingBench, agent: Reconciliation
) -> None:
    busy(proving)
    record = read_body(proving.read(proving.topics.journal, 0, 0)[0][3].value, parse_own_schema("ledger.journal-value"))
    proving.put_record(record)
    assert prove(proving, agent) == {}
    proving.put_record({**record, "hash": b"x" * 32})
    assert prove(proving, agent) == {("conservation", "lane 0 seq 3"): "open"}


UNFAITHFUL = {
    "legs": {"legs": [leg("external:bank", "debit", 9), leg("users:9:wallet", "credit", 9)]},
    "tenant": {"tenant": "other"},
    "key": {"idempotency_key": "another"},
    "reference": {"reference": "not asked"},
    "metadata": {"metadata": {"a": "b"}},
    "value_time": {"value_time": 1},
    "fingerprint": {"fingerprint": b"f" * 32},
    "outcome": {"outcome": "rejected", "reason": "unbalanced", "legs": [], "value_time": None},
}


@pytest.mark.parametrize("member", [name for name in UNFAITHFUL if name != "outcome"])
def test_a_record_that_is_not_what_was_asked_is_named(
    proving: ProvingBench, agent: Reconciliation, member: str
) -> None:
    proving.send(proving.transfer("asked", "external:bank", "users:9:wallet", 8))
    proving.post()
    proving.put_record({**journal_record(proving), **UNFAITHFUL[member]})
    proving.feed(agent.reconciler)
    assert proving.breaks("reconciliation")["faithfulness", "lane 0 seq 0"] == "open"


def test_a_false_duplicate_and_a_false_quarantine_are_named(proving: ProvingBench, agent: Reconciliation) -> None:
    for key in ("a", "b"):
        proving.send(proving.transfer(key, "external:bank", "users:9:wallet", 8))
    proving.post()
    emptied = {"legs": [], "value_time": None}
    proving.put_record({**journal_record(proving, 0), **emptied, "outcome": "duplicate"})
    named = dict.fromkeys(("tenant", "intent_id", "idempotency_key", "type", "reference"))
    proving.put_record({**journal_record(proving, 1), **emptied, **named, "outcome": "quarantined", "reason": "empty"})
    proving.feed(agent.reconciler)
    found = proving.breaks("reconciliation")
    assert found["faithfulness", "lane 0 seq 0"] == found["faithfulness", "lane 0 seq 1"] == "open"


def journal_record(bench: ProvingBench, seq: int = 0) -> dict[str, Any]:
    """Return the record that the relay would send for a row of lane 0."""
    row = bench.rows(RECORDS, 0)[seq]
    legs = bench.rows(
        "SELECT address AS account, CASE direction WHEN 1 THEN 'debit' ELSE 'credit' END AS direction, amount_minor,"
        " currency FROM ledger.entry JOIN ledger.account USING (account_id) WHERE lane = 0 AND seq = %s ORDER BY leg",
        seq,
    )
    del row["leg_count"]
    return {**row, "intent_id": str(row["intent_id"]), "metadata": row["metadata"] or {}, "legs": legs}


@pytest.mark.parametrize("kept_from", [4, 9])
def test_intents_that_retention_deleted_are_expired_and_no_break(
    proving: ProvingBench, agent: Reconciliation, kept_from: int
) -> None:
    busy(proving)
    admin = AdminClient(proving.kafka.make_client_options())
    for deletion in admin.delete_records([TopicPartition(proving.topics.intents, 0, kept_from)]).values():
        deletion.result(10)
    assert prove(proving, agent) == {}
    lanes = proving.rows("SELECT expired FROM reconciliation.lane ORDER BY lane")
    assert [lane["expired"] for lane in lanes] == [kept_from, 0]


def test_a_fate_of_an_offset_that_never_was_is_named(proving: ProvingBench, agent: Reconciliation) -> None:
    proving.send(proving.transfer("asked", "external:bank", "users:9:wallet", 8))
    proving.post_and_relay()
    record = journal_record(proving)
    proving.put_record({**record, "seq": 1, "source_offset": 1, "previous_hash": record["hash"]})
    proving.feed(agent.reconciler)
    assert proving.breaks("reconciliation")["conservation", "lane 0 seq 1"] == "open"


def test_what_is_oddly_malformed_is_refused_by_both_sides_alike(proving: ProvingBench, agent: Reconciliation) -> None:
    """One intent has a number too large for JSON, and the other has keys that sort differently in UTF-16."""
    proving.send(proving.transfer("far-off", "external:bank", "users:1:wallet", 5, value_time=2**60))
    metadata = {"\ufb33": "a", "\U0001f4b8": "b"}
    proving.send(proving.transfer("odd-key", "external:bank", "users:1:wallet", 5, metadata=metadata))
    assert proving.post_and_relay() == ["value_time_out_of_range", "malformed"]
    assert prove(proving, agent) == {}
