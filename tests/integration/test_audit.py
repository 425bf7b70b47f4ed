"""Audit on real Kafka and Postgres: an honest chain passes, and only the altered (lane, seq) of another is named."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from runtime.schemas import parse_own_schema, read_body
from runtime.settings import Settings
from streams.fenced import FenceLost, PartitionBatch
from streams.proof.audit.service import Audit, ensure_key, wire_audit
from tests.integration.test_reconciliation import busy
from tests.proving_bench import ProvingBench


@pytest.fixture
def agent(proving: ProvingBench, settings: Settings) -> Iterator[Audit]:
    quick = settings.model_copy(update={"audit_checkpoint_seconds": 0.001})
    made = wire_audit(proving.kafka, proving.dsn, proving.registry, proving.topics, ensure_key(quick), quick)
    yield made
    made.close()


def prove(bench: ProvingBench, agent: Audit) -> dict[tuple[str, str], str]:
    """Let the agent read everything, sweep and check again; return the unresolved breaks."""
    bench.feed(agent.auditor)
    agent.chores.sweep_all()
    return bench.breaks("audit")


def records(bench: ProvingBench, lane: int = 0) -> list[dict[str, Any]]:
    schema = parse_own_schema("ledger.journal-value")
    return [read_body(message.value, schema) for message in bench.read(bench.topics.journal, lane, 0)[0]]


def test_an_honest_ledger_has_no_breaks_and_the_same_heads(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    assert prove(proving, agent) == {}
    assert proving.breaks("audit", "resolved") == {}
    own = proving.rows("SELECT lane, next_seq, head FROM audit.lane ORDER BY lane")
    assert own == proving.rows("SELECT lane, next_seq, head FROM ledger.lane ORDER BY lane")
    assert [row["next_seq"] for row in own] == [9, 7]


def test_a_batch_that_was_taken_already_is_fenced(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    messages, end = proving.read(proving.topics.journal, 0, 0)
    batch = [PartitionBatch(proving.topics.journal, 0, 0, messages, end)]
    agent.auditor.handle(batch)
    with pytest.raises(FenceLost):
        agent.auditor.handle(batch)


ROW = "UPDATE ledger.journal SET {} WHERE lane = 0 AND seq = 4"
ALTERATIONS = {
    "reference": (ROW.format("reference = 'altered'"), ROW.format("reference = NULL"), "lane 0 seq 4"),
    "outcome detail": (ROW.format("detail = 'x'"), ROW.format("detail = ''"), "lane 0 seq 4"),
    "hash": (
        ROW.format("hash = set_byte(hash, 0, 255 - get_byte(hash, 0))"),
        ROW.format("hash = set_byte(hash, 0, 255 - get_byte(hash, 0))"),
        "lane 0 seq 4",
    ),
    "leg count": (ROW.format("leg_count = 3"), ROW.format("leg_count = 2"), "lane 0 seq 4"),
    "both entries": (
        "UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = 1 AND seq = 3",
        "UPDATE ledger.entry SET amount_minor = amount_minor - 1 WHERE lane = 1 AND seq = 3",
        "lane 1 seq 3",
    ),
    "deleted entry": (
        "WITH gone AS (DELETE FROM ledger.entry WHERE lane = 1 AND seq = 2 AND leg = 1 RETURNING *)"
        " SELECT set_config('test.none', '', true) FROM gone",
        "INSERT INTO ledger.entry (lane, seq, leg, account_id, direction, amount_minor, currency)"
        " SELECT 1, 2, 1, account_id, -1, 1005, 'EUR' FROM ledger.account WHERE address = 'users:5:wallet'",
        "lane 1 seq 2",
    ),
    "inserted entry": (
        "INSERT INTO ledger.entry (lane, seq, leg, account_id, direction, amount_minor, currency)"
        " SELECT lane, seq, 7, account_id, direction, 1, currency FROM ledger.entry"
        " WHERE lane = 0 AND seq = 1 AND leg = 0",
        "DELETE FROM ledger.entry WHERE leg = 7",
        "lane 0 seq 1",
    ),
    "first row": (
        "UPDATE ledger.journal SET booked_time = booked_time + 1 WHERE lane = 1 AND seq = 0",
        "UPDATE ledger.journal SET booked_time = booked_time - 1 WHERE lane = 1 AND seq = 0",
        "lane 1 seq 0",
    ),
    "inserted row": (
        "INSERT INTO ledger.journal SELECT (jsonb_populate_record(j, jsonb_build_object('seq', 9,"
        " 'intent_id', gen_random_uuid()))).* FROM ledger.journal AS j WHERE lane = 0 AND seq = 0",
        "DELETE FROM ledger.journal WHERE lane = 0 AND seq = 9",
        "lane 0 seq 9",
    ),
    "lane's head": (
        "UPDATE ledger.lane SET head = set_byte(head, 0, 255 - get_byte(head, 0)) WHERE lane = 1",
        "UPDATE ledger.lane SET head = set_byte(head, 0, 255 - get_byte(head, 0)) WHERE lane = 1",
        "lane 1 head",
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_just_the_altered_row_is_named_and_resolves_when_restored(
    proving: ProvingBench, agent: Audit, alteration: str
) -> None:
    alter, restore, subject = ALTERATIONS[alteration]
    busy(proving)
    assert prove(proving, agent) == {}
    proving.tamper(alter)
    assert prove(proving, agent) == {("stored", subject): "open"}
    proving.tamper(restore)
    assert prove(proving, agent) == {}
    assert proving.breaks("audit", "resolved") == {("stored", subject): "resolved"}


def test_a_deleted_row_is_named(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    prove(proving, agent)
    proving.tamper("CREATE TABLE saved AS SELECT * FROM ledger.journal WHERE lane = 0 AND seq = 5")
    proving.tamper("DELETE FROM ledger.journal WHERE lane = 0 AND seq = 5")
    assert prove(proving, agent) == {("stored", "lane 0 seq 5"): "open"}
    proving.tamper("INSERT INTO ledger.journal SELECT * FROM saved")
    assert prove(proving, agent) == {}


def test_a_forged_record_on_the_topic_is_named(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    prove(proving, agent)
    last = records(proving)[-1]
    proving.put_record({**last, "seq": last["seq"] + 1, "source_offset": 9, "previous_hash": last["hash"]})
    proving.feed(agent.auditor)
    assert proving.breaks("audit") == {("chain", "lane 0 seq 9"): "open"}


def test_a_skipped_record_is_named_and_explained_when_it_comes_late(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    messages, end = proving.read(proving.topics.journal, 0, 0)
    agent.auditor.handle([PartitionBatch(proving.topics.journal, 0, 0, messages[:3] + messages[4:], end)])
    agent.chores.sweep_all()
    assert proving.breaks("audit") == {("chain", "lane 0 seq 3"): "open"}
    proving.put_record(records(proving)[3])
    assert prove(proving, agent) == {("chain", "lane 0 seq 3"): "explained"}


def test_a_repeated_record_is_dropped_and_another_is_named(proving: ProvingBench, agent: Audit) -> None:
    busy(proving)
    record = records(proving)[2]
    proving.put_record(record)
    assert prove(proving, agent) == {}
    proving.put_record({**record, "reference": "another"})
    assert prove(proving, agent) == {("chain", "lane 0 seq 2"): "open"}


@pytest.mark.parametrize("table", ["segment", "checkpoint", "checkpoint_lane", "signing_key"])
@pytest.mark.parametrize("action", ["DELETE FROM audit.{}", "TRUNCATE audit.{} CASCADE"])
def test_what_audit_keeps_cannot_be_taken_back(proving: ProvingBench, agent: Audit, table: str, action: str) -> None:
    busy(proving)
    proving.feed(agent.auditor)
    assert agent.signer.sign_if_due() is not None
    with psycopg.connect(proving.dsn) as connection, pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute(action.format(table))  # type: ignore[arg-type]
    with psycopg.connect(proving.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE ledgerline_audit")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(action.format(table))  # type: ignore[arg-type]
