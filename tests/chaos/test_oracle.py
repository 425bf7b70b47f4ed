"""The oracle on the real parts: an honest ledger passes, and each damage is named and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.chaos.oracle_bench import ENTRY, ROW, SHARD, OracleBench, Where, at, shard, spoilt
from tools.chaos.oracle import OracleError, judge
from tools.chaos.oracle import topics as oracle_topics
from tools.chaos.oracle.__main__ import main


def test_an_honest_ledger_holds(filled: OracleBench) -> None:
    verdict = filled.judge()
    assert verdict.faults == ()
    assert verdict.holds
    assert {name: verdict.counts[name] for name in ("offsets", "rows", "records", "acknowledged", "quarantined")} == {
        "offsets": 21,
        "rows": 21,
        "records": 21,
        "acknowledged": 17,
        "quarantined": 4,
    }
    named = ("posted", "duplicate", "idempotency_conflict", "rejected")
    assert [verdict.counts[name] for name in named] == [10, 2, 2, 3]


def test_an_empty_ledger_holds(ledger: OracleBench) -> None:
    assert ledger.found() == set()


# ---------------------------------------------------------------------------------------------------- the tables

IN_2 = (shard("external:bank", 0), shard("users:2:wallet", 0))


@pytest.mark.parametrize(
    ("statement", "checks", "others"),
    [
        (ENTRY, ("topic_equals_table", "chains", "faithful"), IN_2),
        (
            f"{ENTRY} AND leg = 0",
            ("topic_equals_table", "chains", "faithful", "balanced"),
            (IN_2[0], ("trial_balance", "default EUR")),
        ),
        (
            "DELETE FROM ledger.entry WHERE lane = %s AND seq = %s AND leg = 1",
            ("topic_equals_table", "chains", "faithful", "balanced"),
            (IN_2[1], ("trial_balance", "default EUR")),
        ),
        (ROW.format("hash = sha256('other')"), ("topic_equals_table", "chains"), ()),
        (ROW.format("reference = 'other'"), ("topic_equals_table", "chains", "faithful"), ()),
        (ROW.format("leg_count = 3"), ("balanced",), ()),
        (ROW.format("booked_time = 1"), ("topic_equals_table", "chains", "one_fate"), ()),
    ],
)
def test_an_altered_row_is_named(
    honest: OracleBench, statement: str, checks: tuple[str, ...], others: tuple[Where, ...]
) -> None:
    place = spoilt(honest, "in-2", statement)
    assert honest.found() == {at(check, *place) for check in checks} | set(others)


def test_a_missing_row_is_named(honest: OracleBench) -> None:
    place = honest.seq_of("in-4")
    honest.tamper("DELETE FROM ledger.entry WHERE lane = %s AND seq = %s", *place)
    honest.tamper("DELETE FROM ledger.journal WHERE lane = %s AND seq = %s", *place)
    reversal = at("reversals", *honest.seq_of("back-1"))
    assert honest.found() == {
        at("one_fate", *place),
        at("topic_equals_table", *place),
        ("acknowledged", "intent default in-4"),
        shard("external:bank", 0),
        shard("users:4:wallet", 0),
        ("floors", reversal[1]),
        at("floors", *honest.seq_of("back-2")),
        reversal,
    }


def test_a_row_that_lost_its_journal_row_alone_leaves_entries(honest: OracleBench) -> None:
    place = spoilt(honest, "in-2", "DELETE FROM ledger.journal WHERE lane = %s AND seq = %s")
    assert at("one_fate", *place) in honest.found()
    details = {fault.detail for fault in honest.judge().faults if fault.check == "one_fate"}
    assert "There are entries, but there is no journal row." in details


def test_a_doubled_row_is_named(honest: OracleBench) -> None:
    honest.tamper("ALTER TABLE ledger.journal DROP CONSTRAINT journal_pkey")
    honest.tamper("DROP INDEX ledger.journal_settled")
    statement = "INSERT INTO ledger.journal SELECT * FROM ledger.journal WHERE lane = %s AND seq = %s"
    place = spoilt(honest, "in-2", statement)
    assert honest.found() == {at("one_fate", *place), *IN_2}


def test_an_intent_that_is_settled_twice_is_named(honest: OracleBench) -> None:
    honest.tamper("DROP INDEX ledger.journal_settled")
    place = honest.seq_of("in-0", "duplicate")
    honest.tamper(ROW.format("outcome = 'rejected', reason = 'no_legs'"), *place)
    assert at("settled_once", *place) in honest.found()


@pytest.mark.parametrize(
    ("key", "outcome", "other"),
    [("in-0", "duplicate", "idempotency_conflict"), ("in-1", "idempotency_conflict", "duplicate")],
)
def test_duplicate_and_conflict_are_told_apart_by_what_the_topic_holds(
    honest: OracleBench, key: str, outcome: str, other: str
) -> None:
    place = spoilt(honest, key, ROW.format(f"outcome = '{other}'"), outcome)
    assert honest.found() == {at(check, *place) for check in ("settled_once", "topic_equals_table", "chains")}


def test_a_repeat_before_what_settles_it_is_named(ledger: OracleBench) -> None:
    """The first row claims to be the duplicate, and the second claims to settle the intent."""
    asked = ledger.transfer("poor", "users:1:wallet", "external:bank", 10)
    ledger.ask(asked)
    ledger.ask(asked)
    ledger.post()
    ledger.relay_all()
    ledger.tamper("UPDATE ledger.journal SET outcome = 'duplicate', reason = '' WHERE seq = 0")
    ledger.tamper("UPDATE ledger.journal SET outcome = 'rejected', reason = 'no_legs' WHERE seq = 1")
    copies = {at(check, 0, seq) for check in ("topic_equals_table", "chains") for seq in (0, 1)}
    assert ledger.found() == {at("settled_once", 0, 0), *copies}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (SHARD, {shard("users:2:wallet", 0)}),
        (SHARD.replace("credits_minor = credits_minor + 1", "seq = seq + 1"), {shard("users:2:wallet", 0)}),
        ("DELETE FROM ledger.balance WHERE lane = 0 AND debits_minor = 0 AND credits_minor = 1002", {IN_2[1]}),
        (
            "INSERT INTO ledger.balance VALUES (1, 'CHF', 1, 0, 0, 1)",
            {("balances", "default {} CHF lane 1")},
        ),
        ("UPDATE ledger.lane SET head = sha256('other') WHERE lane = 1", {("chains", "lane 1")}),
    ],
)
def test_an_edited_shard_or_lane_is_named(honest: OracleBench, statement: str, expected: set[Where]) -> None:
    honest.tamper(statement)
    (first,) = honest.rows("SELECT address FROM ledger.account WHERE account_id = 1")
    assert honest.found() == {(check, where.format(first["address"])) for check, where in expected}


@pytest.mark.parametrize(
    "change", ["topic = 'other'", "first_offset = first_offset + 1, next_offset = next_offset + 1"]
)
def test_rows_whose_source_was_altered_in_their_lane_are_named(honest: OracleBench, change: str) -> None:
    honest.tamper(f"UPDATE ledger.lane SET {change} WHERE lane = 1")  # noqa: S608
    rows = honest.rows("SELECT seq FROM ledger.journal WHERE lane = 1")
    wanted = {at(check, 1, row["seq"]) for check in ("topic_equals_table", "chains") for row in rows}
    assert wanted <= honest.found()


def test_a_broken_floor_is_named(honest: OracleBench) -> None:
    """users:0:wallet fell from 1000 to 400. A floor of 400 allows that, and a floor of 500 does not."""
    floor = "UPDATE ledger.account SET floor_minor = {} WHERE address = 'users:0:wallet'"
    honest.tamper(floor.format(400))
    assert honest.found() == set()
    honest.tamper(floor.format(500))
    assert honest.found() == {at("floors", *honest.seq_of("spend"))}


def test_a_reversal_of_nothing_and_one_of_too_much_are_named(honest: OracleBench) -> None:
    nothing = honest.seq_of("back-1")
    honest.tamper(ROW.format("reverses = gen_random_uuid()"), *nothing)
    found = honest.found()
    assert at("reversals", *nothing) in found
    # back-2 must take everything that is left. Without back-1, more is left than back-2 took.
    assert at("reversals", *honest.seq_of("back-2")) in found


def test_altered_bytes_in_quarantine_are_named(honest: OracleBench) -> None:
    (row,) = honest.rows("SELECT lane, seq FROM ledger.quarantine WHERE key IS NOT NULL")
    honest.tamper("UPDATE ledger.quarantine SET value = 'other' WHERE key IS NOT NULL")
    assert honest.found() == {at("quarantine", row["lane"], row["seq"])}
    details = {fault.detail for fault in honest.judge().faults}
    assert details == {"ledger.quarantine has other bytes of the message.", "Topic and table differ in value."}


# ---------------------------------------------------------------------------------------------------- the topics


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (lambda records: records.pop(2), ("topic_equals_table",)),
        (lambda records: records.append(records[2]), ("topic_equals_table",)),
        (lambda records: records.insert(4, records.pop(2)), ("topic_equals_table",)),
        (lambda records: records[2].update(reference="other"), ("topic_equals_table", "chains")),
        (lambda records: records[2].update(hash=bytes(32)), ("topic_equals_table", "chains")),
    ],
    ids=["missing", "doubled", "late", "altered", "other hash"],
)
def test_a_journal_topic_that_is_not_the_table_is_named(
    ledger: OracleBench, change: Callable[[list[dict[str, Any]]], Any], checks: tuple[str, ...]
) -> None:
    for number in range(6):
        ledger.ask(ledger.transfer(f"in-{number}", "external:bank", "users:1:wallet", 10))
    ledger.post()
    records = ledger.published(0)
    change(records)
    ledger.publish(records)
    assert ledger.found() == {at(check, 0, 2) for check in checks}


def test_quarantined_bytes_that_are_not_published_are_named(ledger: OracleBench) -> None:
    ledger.send_bytes(b"\x00nothing")
    ledger.post()
    ledger.publish(ledger.published(0))
    assert ledger.found() == {("quarantine", "lane 0 seq 0")}


def test_what_is_not_at_rest_is_named(filled: OracleBench) -> None:
    asked = filled.ask(filled.transfer("late", "external:bank", "users:1:wallet", 10))
    assert filled.found() == {("one_fate", "lane 0"), ("acknowledged", "intent default late")}
    assert filled.judge().counts["in_flight"] == 1
    filled.post()
    assert filled.found() == {at("topic_equals_table", 0, asked.offset or 0)}
    filled.relay_all()
    assert filled.found() == set()


def test_where_a_transaction_is_open_there_is_no_verdict(filled: OracleBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle_topics, "KAFKA_SECONDS_MAX", 5.0)
    producer = Producer({**filled.kafka.make_client_options(), "transactional.id": filled.topics.prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(filled.topics.journal, b"unfinished", partition=0)
    assert producer.flush(30) == 0
    with pytest.raises(OracleError, match="end the transaction that is open there first"):
        filled.judge()
    producer.abort_transaction(30)
    assert filled.found() == set()


def test_what_a_transaction_aborted_has_its_fate_and_must_not_be_posted(ledger: OracleBench) -> None:
    asked = [ledger.transfer(f"t-{number}", "external:bank", "users:1:wallet", 10) for number in range(2)]
    ledger.send_transaction(asked[:1], commit=False)
    ledger.send_transaction(asked[1:], commit=True)
    ledger.post_and_relay()
    assert ledger.found() == set()
    assert ledger.judge().counts["without_record"] == 3
    ledger.tamper("UPDATE ledger.journal SET reason = 'empty' WHERE lane = 0 AND seq = 0")
    assert at("faithful", 0, 0) in ledger.found()


def test_an_intent_that_can_be_read_is_not_excused_as_poison(ledger: OracleBench) -> None:
    """An outage was mistaken for a fault of the intent itself: the intent is not lost, but it is not paid."""
    ledger.ask(ledger.transfer("in-0", "external:bank", "users:1:wallet", 10))
    outages = [ValueError("the disk is full")]

    def misjudge(point: str) -> None:
        if point == "decided" and outages:
            raise outages.pop()

    ledger.new_poster(fault=misjudge).handle(ledger.fetch((0,)))
    ledger.relay_all()
    assert ledger.found() == {("faithful", "lane 0 seq 0"), ("acknowledged", "intent default in-0")}


# ---------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"offset": 999}, "The topic has no intent at partition 0 offset 999, which was told."),
        ({"offset": 1}, "The topic has another intent at partition 0 offset 1, which was told."),
        ({"intent_id": "11111111-1111-5111-8111-111111111111"}, "No row settles it."),
        ({"idempotency_key": "other"}, "The id that was told does not follow from tenant and key."),
    ],
)
def test_an_answer_that_is_not_true_is_named(honest: OracleBench, changes: dict[str, Any], detail: str) -> None:
    answer = honest.acknowledged[0]._replace(**changes)
    verdict = judge(honest.place, [*honest.acknowledged, answer])
    where = f"intent default {answer.idempotency_key}"
    assert {(fault.check, fault.where) for fault in verdict.faults} == {("acknowledged", where)}
    assert detail in {fault.detail for fault in verdict.faults}


def test_one_body_that_asks_two_things_is_named(honest: OracleBench) -> None:
    """in-1 was sent with two bodies. The oracle must notice if the answers claim the same body for both."""
    for number, answer in enumerate(honest.acknowledged):
        if answer.idempotency_key == "in-1":
            honest.acknowledged[number] = answer._replace(body_sha256="same")
    assert honest.found() == {("acknowledged", "intent default in-1")}


# ---------------------------------------------------------------------------------------------------- command line


def test_the_command_line_tells_by_its_exit_code(honest: OracleBench, capsys: pytest.CaptureFixture[str]) -> None:
    place = honest.place
    asked = ["--kafka-bootstrap", place.kafka_bootstrap, "--postgres-dsn", place.postgres_dsn, "--registry-url",
             place.registry_url, "--topic-prefix", place.topic_prefix]  # fmt: skip
    assert main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["holds"], answer["faults"], answer["counts"]["rows"]) == (True, [], 21)
    honest.tamper(SHARD)
    assert main(asked) == 1
    assert "balances: default users:2:wallet EUR lane 0: The shard has" in capsys.readouterr().out
    assert main([*asked, "--topic-prefix", "nobody."]) == 2
    assert "Kafka does not describe nobody.payments.intents" in capsys.readouterr().err
