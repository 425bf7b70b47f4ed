"""The rules of reconciliation as tables: each row is a case, and its last value is the expected findings."""

from hashlib import sha256
from typing import Any, cast

import pytest

from db.reconciliation import FaultyRow, LaneRow, LedgerLane, Reversed, Settled, ShardPair, Sums
from domain.breaks import BreakKind, Finding, compute_break_id, merge_findings
from domain.intents import compute_intent_id
from domain.outcomes import QuarantineReason
from streams.proof.reconciliation import checks, state
from streams.proof.reconciliation.agent import make_shard_finding
from streams.proof.reconciliation.sweep import find_lane_faults
from streams.proof.records.canonical import compute_intent_fingerprint
from streams.proof.records.decoding import IntentRecord, JournalRecord, Unreadable

ORIGINAL = str(compute_intent_id("default", "original"))


def leg(account: str, direction: str, amount_minor: int, currency: str = "EUR") -> dict[str, Any]:
    return {"account": account, "direction": direction, "amount_minor": amount_minor, "currency": currency}


LEGS = [leg("a", "debit", 5), leg("b", "credit", 5)]


def asked(**changes: Any) -> IntentRecord:
    record = {
        "intent_id": str(compute_intent_id("default", "key")),
        "tenant": "default",
        "idempotency_key": "key",
        "type": "transfer",
        "legs": LEGS,
        "reverses": None,
        "value_time": None,
        "reference": "r",
        "metadata": {"m": "1"},
        "accepted_time": 77,
    }
    return cast("IntentRecord", {**record, **changes})


def journalled(intent: IntentRecord | None = None, **changes: Any) -> JournalRecord:
    intent = intent or asked()
    record = {
        **{name: intent[name] for name in ("intent_id", "tenant", "idempotency_key", "type", "legs", "reference")},  # type: ignore[literal-required]
        "metadata": intent["metadata"],
        "reverses": intent["reverses"],
        "fingerprint": compute_intent_fingerprint(intent),
        "lane": 1,
        "seq": 4,
        "previous_hash": b"",
        "hash": b"",
        "outcome": "posted",
        "reason": "",
        "detail": "",
        "source_topic": "payments.intents",
        "source_offset": 14,
        "value_time": 77 if intent["value_time"] is None else intent["value_time"],
        "booked_time": 99,
    }
    return cast("JournalRecord", {**record, **changes})


NOT_POSTED = {"legs": [], "value_time": None}
NO_TEXT = {"reference": None, "metadata": {}}
NAMELESS = {"tenant": None, "intent_id": None, "idempotency_key": None, "type": None, **NOT_POSTED, **NO_TEXT}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"legs": []}, ["It is posted and yet moves nothing."]),
        ({"legs": [leg("a", "debit", 5), leg("b", "credit", 4)]}, ["Debits less credits in EUR are 1, not 0."]),
        (
            {"legs": [leg("a", "debit", 5), leg("b", "credit", 5, "USD")]},
            ["Debits less credits in EUR are 5, not 0.", "Debits less credits in USD are -5, not 0."],
        ),
        (
            {"legs": [leg("a", "debit", -5), leg("b", "credit", -5)]},
            ["A leg is a debit of -5 minor units.", "A leg is a credit of -5 minor units."],
        ),
        ({"legs": [leg("a", "unknown", 5)]}, ["A leg is a unknown of 5 minor units."]),
        ({"outcome": "rejected", "legs": []}, []),
        ({"outcome": "duplicate"}, ["It is duplicate and yet has 2 legs."]),
    ],
)
def test_symmetry(changes: dict[str, Any], said: list[str]) -> None:
    assert checks.check_symmetry(journalled(**changes)) == said


REVERSAL = asked(type="reversal", legs=[], reverses=ORIGINAL)


@pytest.mark.parametrize(
    ("intent", "changes", "said"),
    [
        (asked(), {}, []),
        (asked(value_time=5), {}, []),
        (asked(intent_id=str(compute_intent_id("default", "key")).upper()), {"intent_id": asked()["intent_id"]}, []),
        (REVERSAL, {"legs": LEGS}, []),
        (REVERSAL, {"legs": LEGS, "reverses": None}, ["It does not reverse what the intent reverses."]),
        (asked(), {"legs": LEGS[::-1]}, ["Its legs are not those that the intent asks."]),
        (asked(), {"tenant": "x"}, ["Its tenant or idempotency key is not the intent's."]),
        (asked(), {"intent_id": ORIGINAL}, ["Its intent id is not the intent's."]),
        (asked(), {"type": "reversal"}, ["Its type is reversal, the intent's transfer."]),
        (asked(), {"fingerprint": b""}, ["Its fingerprint is not that of the intent."]),
        (asked(), {"reference": None}, ["Its reference is not the intent's."]),
        (asked(), {"metadata": {}}, ["Its metadata are not the intent's."]),
        (asked(), {"value_time": 78}, ["Its value time is not the intent's."]),
        (asked(accepted_time=0), {"value_time": 99}, []),  # the value time is the booked time
        (asked(accepted_time=0), {"value_time": 0}, []),  # release 0.1.0 wrote 0
        (asked(accepted_time=0), {"value_time": 98}, ["Its value time is not the intent's."]),
        (asked(accepted_time=0, value_time=0), {"value_time": 99}, ["Its value time is not the intent's."]),
        (asked(), {"outcome": "rejected", "reason": "unbalanced", **NOT_POSTED}, []),
        (asked(), {"outcome": "rejected", "reason": "malformed", **NOT_POSTED, **NO_TEXT}, []),
        (asked(), {"outcome": "duplicate", **NOT_POSTED, **NO_TEXT}, []),
        (asked(), {"outcome": "duplicate", "legs": [], **NO_TEXT}, ["Its value time is not the intent's."]),
        (
            Unreadable(QuarantineReason.EMPTY, ""),
            {},
            ["It is posted, but no intent can be read at its offset: empty."],
        ),
        (
            asked(intent_id=ORIGINAL),
            {},
            [
                "It is posted, but the intent at its offset should be quarantined:"
                " its id does not follow from tenant and key."
            ],
        ),
    ],
)
def test_faithfulness(intent: checks.Asked, changes: dict[str, Any], said: list[str]) -> None:
    record = journalled(asked() if isinstance(intent, Unreadable) else intent, **changes)
    assert checks.check_faithfulness(record, intent) == said


NOTHING: dict[str, Any] = {**NAMELESS, "outcome": "quarantined", "fingerprint": sha256(b"").digest()}
NO_MESSAGE = "payments.intents has no message at offset 14"
HOLDS = ", and yet the record holds something."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({**NOTHING, "reason": "no_record"}, []),
        ({**NOTHING, "reason": "empty"}, []),  # the name in release 0.1.0
        ({**NOTHING, "reason": "bad_magic"}, [f"{NO_MESSAGE}."]),
        ({**NOTHING, "reason": "poison"}, [f"{NO_MESSAGE}."]),
        ({}, [f"{NO_MESSAGE}."]),
        ({"outcome": "rejected", "reason": "unbalanced", **NOT_POSTED}, [f"{NO_MESSAGE}."]),
        (
            {**NOTHING, "reason": "no_record", "fingerprint": b"x"},
            [f"{NO_MESSAGE}{HOLDS}"],
        ),
        ({**NOTHING, "reason": "no_record", "legs": LEGS}, [f"{NO_MESSAGE}{HOLDS}"]),
        ({**NOTHING, "reason": "no_record", "tenant": "t"}, [f"{NO_MESSAGE}{HOLDS}"]),
    ],
)
def test_an_offset_without_a_message(changes: dict[str, Any], said: list[str]) -> None:
    assert checks.check_absence(journalled(**changes)) == said


@pytest.mark.parametrize(
    ("reason", "found", "said"),
    [
        ("empty", Unreadable(QuarantineReason.EMPTY, ""), []),
        ("unknown_schema", Unreadable(QuarantineReason.WRONG_SCHEMA, ""), []),
        (
            "bad_magic",
            Unreadable(QuarantineReason.EMPTY, ""),
            ["It is quarantined as bad_magic, but its bytes are empty."],
        ),
        ("empty", asked(), ["It is quarantined as empty, but its bytes are an intent."]),
        ("no_record", asked(), ["It is quarantined as no_record, but its bytes are an intent."]),
        (
            "no_record",
            Unreadable(QuarantineReason.BAD_MAGIC, ""),
            ["It is quarantined as no_record, but its bytes are bad_magic."],
        ),
        ("identity_mismatch", asked(intent_id=ORIGINAL), []),
        ("identity_mismatch", asked(tenant="NO"), []),
        ("identity_mismatch", asked(), ["It is quarantined for its identity, which is as it should be."]),
        ("unknown_tenant", asked(), []),
        ("poison", asked(), []),
    ],
)
def test_quarantine(reason: str, found: checks.Asked, said: list[str]) -> None:
    record = journalled(**NAMELESS, outcome="quarantined", reason=reason, fingerprint=sha256(b"v").digest())
    assert checks.check_quarantine(record, b"v", found) == said
    assert "Its fingerprint is not that of the bytes at its offset." in checks.check_quarantine(record, b"w", found)


@pytest.mark.parametrize(
    ("outcome", "settled", "said"),
    [
        ("duplicate", Settled(1, 3, "posted", b"same"), ""),
        ("duplicate", Settled(2, 900, "rejected", b"same"), ""),
        ("idempotency_conflict", Settled(1, 3, "posted", b"other"), ""),
        ("duplicate", None, "no earlier row"),
        ("duplicate", Settled(1, 5, "posted", b"same"), "no earlier row"),
        ("duplicate", Settled(1, 3, "posted", b"other"), "with another body"),
        ("idempotency_conflict", Settled(1, 3, "posted", b"same"), "with the same body"),
    ],
)
def test_settlement(outcome: str, settled: Settled | None, said: str) -> None:
    found = checks.check_settlement(journalled(outcome=outcome, fingerprint=b"same"), settled)
    assert (said in found[0]) if said else found == []


MOVED = {("a", 1, "EUR"): 10, ("b", -1, "EUR"): 10}
BACK = [leg("a", "credit", 4), leg("b", "debit", 4)]


@pytest.mark.parametrize(
    ("takes_all", "moved", "said"),
    [
        (False, Reversed(MOVED, {("a", 1, "EUR"): 4, ("b", -1, "EUR"): 4}), 0),
        (True, Reversed(MOVED, dict(MOVED)), 0),
        (True, Reversed(MOVED, {("a", 1, "EUR"): 4, ("b", -1, "EUR"): 4}), 1),
        (False, Reversed(MOVED, {("a", 1, "EUR"): 11, ("b", -1, "EUR"): 4}), 1),
        (False, Reversed({("b", -1, "EUR"): 10}, {("a", 1, "EUR"): 4, ("b", -1, "EUR"): 4}), 1),
        (False, None, 1),
    ],
)
def test_reversal(takes_all: bool, moved: Reversed | None, said: int) -> None:
    assert len(checks.check_reversal(journalled(legs=BACK), takes_all, moved)) == said


KEY = ("default", "a", "EUR", 0)


@pytest.mark.parametrize(
    ("own", "held", "next_seq", "is_wrong"),
    [
        (Sums(5, 0, 3), Sums(5, 0, 3), 9, False),
        (Sums(5, 0, 3), Sums(5, 1, 3), 9, True),
        (Sums(5, 0, 3), Sums(7, 0, 9), 9, False),  # reconciliation has not seen seq 9 yet
        (Sums(5, 0, 3), Sums(7, 0, 8), 9, True),  # reconciliation has seen seq 8, which did not touch this shard
        (Sums(5, 0, 3), Sums(5, 0, 2), 9, True),
        (Sums(5, 0, 3), None, 9, True),
        (None, Sums(5, 0, 9), 9, False),
        (None, Sums(5, 0, 3), 9, True),
        (None, None, 9, False),
    ],
)
def test_shard(own: Sums | None, held: Sums | None, next_seq: int, is_wrong: bool) -> None:
    assert (checks.check_shard(ShardPair(KEY, own, held, next_seq)) is not None) is is_wrong


def test_a_shard_is_explained_by_just_what_the_topic_owes() -> None:
    pair = ShardPair(KEY, Sums(5, 0, 3), Sums(9, 0, 8), 9)
    assert make_shard_finding(pair, "d", {KEY: (4, 0)}).state == "explained"
    assert make_shard_finding(pair, "d", {KEY: (3, 0)}).state == "open"
    assert make_shard_finding(pair, "d", {}).state == "open"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (FaultyRow(1, False, 0, 0, True), "no journal row here."),
        (FaultyRow(1, False, 0, 2, True), "but 2 entries"),
        (FaultyRow(1, True, 2, 1, False), "has 2 legs, but 1 entries"),
        (FaultyRow(1, True, 2, 2, False), "do not balance"),
    ],
)
def test_stored_row(row: FaultyRow, said: str) -> None:
    assert said in checks.describe_faulty_row(row)


NEW_LANE = LaneRow(1)


def taken(*records: JournalRecord, row: LaneRow = NEW_LANE, gaps: tuple[int, ...] = ()) -> tuple[LaneRow, state.Taken]:
    found = state.Taken()
    counter = state.LaneCounter(row, [(1, seq) for seq in gaps], "payments.intents", found)
    for record in records:
        counter.take(record)
    return counter.row(50), found


def at(seq: int, **changes: Any) -> JournalRecord:
    return journalled(**{"seq": seq, "source_offset": 10 + seq, **changes})


def test_a_lane_counts_what_it_takes() -> None:
    row, found = taken(at(0), at(1, outcome="duplicate", **NOT_POSTED), at(2))
    assert (row.next_offset, row.next_seq, row.source_first_offset, row.posted, row.duplicate) == (50, 3, 10, 2, 1)
    assert found.findings == []
    assert found.sums() == {("default", "a", "EUR", 1): Sums(10, 0, 2), ("default", "b", "EUR", 1): Sums(0, 10, 2)}


@pytest.mark.parametrize(
    ("records", "subjects"),
    [
        ([at(0), at(2)], ["lane 1 seq 1"]),
        ([at(0), at(1, source_offset=13)], ["lane 1 seq 1"]),
        ([at(0), at(1, source_topic="other")], ["lane 1 seq 1"]),
        ([at(0), at(1, booked_time=98)], ["lane 1 seq 1"]),
        ([at(0, outcome="unknown")], ["lane 1 seq 0"]),
        ([at(0), at(20_000)], ["lane 1 seq 1"]),
    ],
)
def test_what_is_out_of_place_is_named(records: list[JournalRecord], subjects: list[str]) -> None:
    _, found = taken(*records)
    named = found.missing + found.findings
    assert [finding.subject for finding in named if finding.kind == BreakKind.CONSERVATION] == subjects


def test_a_late_record_closes_its_gap_and_a_repeat_is_held_back() -> None:
    row, found = taken(at(1), at(1), row=LaneRow(1, next_seq=3, source_first_offset=10, posted=2), gaps=(1,))
    assert found.gaps_closed == [(1, 1)]
    assert [record["seq"] for record in found.repeated] == [1]
    assert (row.next_seq, row.posted) == (3, 3)


def test_classes_add_up_to_nothing_and_unknown_accounts_are_named() -> None:
    sums = state.sum_classes({("t", "a", "EUR", 0): [5, 0, 1], ("t", "b", "EUR", 0): [0, 5, 1]}, {("t", "a"): "asset"})
    assert sums == {(0, "t", "EUR", "asset"): (5, 0), (0, "t", "EUR", "unknown"): (0, 5)}
    named = state.find_class_faults({("t", "EUR", "asset"): (5, 0), ("t", "EUR", "unknown"): (0, 4)})
    assert [found.subject for found in named] == ["t EUR unknown accounts", "t EUR total"]
    assert state.find_class_faults({("t", "EUR", "asset"): (5, 0), ("t", "EUR", "liability"): (0, 5)}) == []


LANE = LaneRow(1, next_seq=7, source_first_offset=10, posted=5, rejected=1)
LEDGER = LedgerLane(1, "payments.intents", 10, 20, 10, 0)


@pytest.mark.parametrize(
    ("row", "ledger", "bounds", "owed", "wrong"),
    [
        (LANE, LEDGER, (0, 20), 1, 0),
        (LANE, LEDGER, (0, 20), 0, 1),
        (LANE, LEDGER, (0, 16), 1, 1),
        (LANE, LEDGER._replace(first_offset=9), (0, 20), 1, 1),
        (LANE, LEDGER._replace(next_seq=6), (0, 20), 1, 1),
        (LANE, None, (0, 17), 1, 0),
    ],
)
def test_conservation_of_a_lane(
    row: LaneRow, ledger: LedgerLane | None, bounds: tuple[int, int], owed: int, wrong: int
) -> None:
    assert len(find_lane_faults(row, ledger, bounds, owed)) == wrong


def test_the_same_difference_is_the_same_break() -> None:
    one = Finding(BreakKind.BALANCE, "s", "First.", evidence={"a": 1})
    assert merge_findings([one, one]) == [one]
    (both,) = merge_findings([one, one._replace(detail="Second.", evidence={})])
    assert (both.detail, dict(both.evidence)) == ("First. Second.", {})
    assert compute_break_id("audit", "chain", "s") == compute_break_id("audit", "chain", "s")
    assert compute_break_id("audit", "chain", "s") != compute_break_id("reconciliation", "chain", "s")
