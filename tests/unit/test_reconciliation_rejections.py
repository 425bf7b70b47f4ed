"""Whether a rejection was right, as tables: each row is a case, and its last value is the expected findings."""

from typing import Any, cast

import pytest

from db.books import Books
from db.reconciliation import IntentName, Reversed
from db.rejections import Holding, HoldingAsked, OriginalRow
from domain.chart import AccountClass, Chart, ChartPattern
from domain.outcomes import Reason
from streams.proof.reconciliation.rejections import MARGIN_MICROSECONDS, Rejection, find_shape_reason, judge
from streams.proof.records.decoding import IntentRecord, JournalRecord
from tests.unit.test_reconciliation_checks import ORIGINAL, asked, leg

MAX = 2**63 - 1
LATER = 10 * MARGIN_MICROSECONDS
BOOKED = LATER + 99
WALLET, BANK = "users:1:wallet", "external:bank"
DRAW = [leg(WALLET, "debit", 70), leg(BANK, "credit", 70)]
LINES = [
    ChartPattern("users:**", AccountClass.LIABILITY, -1, 0),
    ChartPattern("external:**", AccountClass.ASSET, 1, None, frozenset({"EUR"})),
]
BOOKS = Books(1, {"default": Chart(LINES)}, {"default": {"PTS": 0}})
OPEN_SIDE = Holding(1, None, 5, 0, 0, True)


class Ledger:
    """A ledger whose answers the case gives."""

    def __init__(self, **says: Any) -> None:
        self._says = says
        self.asked: list[HoldingAsked] = []

    def books(self) -> tuple[Books, int]:
        return BOOKS, self._says.get("changed_time", 0)

    def originals(self, names: list[IntentName]) -> dict[IntentName, OriginalRow]:
        assert names == [("default", ORIGINAL)]
        return {names[0]: self._says["original"]} if "original" in self._says else {}

    def reversals(self, names: list[IntentName]) -> dict[IntentName, Reversed]:
        return {names[0]: self._says["moved"]} if "moved" in self._says else {}

    def holdings(self, asked: list[HoldingAsked]) -> list[Holding | None]:
        self.asked += asked
        found = {WALLET: self._says.get("wallet"), BANK: OPEN_SIDE}
        return [found[each.address] for each in asked]


def rejected(reason: str, intent: IntentRecord, **says: Any) -> list[str]:
    """Return the findings about the rejection of an intent at lane 1, seq 4."""
    record = {"lane": 1, "seq": 4, "reason": reason, "booked_time": BOOKED, "reverses": intent["reverses"]}
    rejection = Rejection(cast("JournalRecord", record), intent, says.pop("asked_time", BOOKED))
    return [detail for _, detail in judge([rejection], cast("Any", Ledger(**says)))]


REFUSED_BY_SHAPE = [
    ({"reference": "x" * 1001}, "malformed"),
    ({"reference": "\x00"}, "malformed"),
    ({"metadata": {"ü": "1"}}, "malformed"),
    ({"metadata": {"m": "x" * 1001}}, "malformed"),
    ({"metadata": {str(number): "" for number in range(51)}}, "malformed"),
    ({"type": "reversal"}, "malformed"),
    ({"reverses": ORIGINAL}, "malformed"),
    ({"legs": [leg("a", "unknown", 5), leg("b", "credit", 5)]}, "malformed"),
    ({"legs": [leg("a b", "debit", 5), leg("b", "credit", 5)]}, "malformed"),
    ({"type": "loan"}, "unsupported_type"),
    ({"legs": []}, "no_legs"),
    ({"legs": [leg("a", "debit", 5)]}, "no_legs"),
    ({"type": "reversal", "reverses": ORIGINAL, "legs": [leg("a", "debit", 5)]}, "no_legs"),
    ({"type": "reversal", "reverses": ORIGINAL, "legs": []}, None),
    ({"legs": [leg("a", "debit", 1), leg("b", "credit", 1)] * 501}, "too_many_legs"),
    ({"legs": [leg("a", "debit", 0), leg("b", "credit", 0)]}, "invalid_amount"),
    ({"legs": [leg("a", "debit", 5), leg("b", "credit", 6)]}, "unbalanced"),
    ({"value_time": 2**60}, "value_time_out_of_range"),
    ({"accepted_time": 2**60}, "value_time_out_of_range"),
    ({}, None),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED_BY_SHAPE)
def test_what_its_shape_gets_an_intent_is_said_by_the_intent_alone(changes: dict[str, Any], reason: str | None) -> None:
    intent = asked(**changes)
    assert find_shape_reason(intent) == reason
    if reason is None:
        assert rejected("malformed", intent) == [
            "It is rejected as malformed, but nothing speaks against it so far as that."
        ]
    else:
        assert rejected(reason, intent) == []
        assert rejected("insufficient_funds", intent) == [f"It is rejected as insufficient_funds, but it is {reason}."]


def test_no_reason_goes_unjudged() -> None:
    """If a posted transfer from a rich account is marked as rejected, every reason is found to be wrong."""
    intent = asked(legs=DRAW)
    rich = Holding(-1, 0, 0, 1000, 0, True)
    for reason in (*(reason.value for reason in Reason), "some_new_reason"):
        assert rejected(reason, intent, wallet=rich), reason


@pytest.mark.parametrize(
    ("legs", "reason", "changed_time", "is_wrong"),
    [
        (DRAW, "unknown_account", 0, True),
        (DRAW, "unknown_account", BOOKED - MARGIN_MICROSECONDS, False),
        ([leg("users:1", "debit", 5), leg("nowhere:2", "credit", 5)], "unknown_account", 0, False),
        ([leg("users:1", "debit", 5), leg("a b\x00", "credit", 5)], "unknown_account", 0, False),
        ([leg("users:1", "debit", 5), leg("a b\x00", "credit", 6)], "unbalanced", 0, False),
        ([leg("users:1", "debit", 5), leg("a b\x00", "credit", 5)], "malformed", 0, False),
        ([leg("users:1", "debit", 5), leg("a b\x00", "credit", 5)], "currency_not_allowed", 0, True),
        ([leg("users:1", "debit", 5), leg("a b\x00", "credit", 5)], "insufficient_funds", 0, True),
        (DRAW, "currency_not_allowed", 0, True),
        ([leg(WALLET, "debit", 5, "USD"), leg(BANK, "credit", 5, "USD")], "currency_not_allowed", 0, False),
        (DRAW, "unknown_currency", BOOKED, True),
        ([leg(WALLET, "debit", 5, "PTS"), leg("users:2", "credit", 5, "PTS")], "unknown_currency", 0, True),
        ([leg(WALLET, "debit", 5, "PTS"), leg("users:2", "credit", 5, "PTS")], "unknown_currency", BOOKED, False),
        ([leg(WALLET, "debit", 5, "NIX"), leg("users:2", "credit", 5, "NIX")], "unknown_currency", 0, False),
    ],
)
def test_the_books_of_today_speak_if_they_are_older(
    legs: list[dict[str, Any]], reason: str, changed_time: int, is_wrong: bool
) -> None:
    assert bool(rejected(reason, asked(legs=legs), changed_time=changed_time)) == is_wrong


MOVED = Reversed({(WALLET, -1, "EUR"): 70, (BANK, 1, "EUR"): 70}, {})
TAKEN = Reversed(MOVED.original, dict(MOVED.original))
HALF = Reversed(MOVED.original, {(WALLET, -1, "EUR"): 35, (BANK, 1, "EUR"): 35})
POSTED = OriginalRow(1, 3, "posted", "transfer", 7)


@pytest.mark.parametrize(
    ("reason", "legs", "says", "is_wrong"),
    [
        ("original_not_found", [], {}, False),
        ("original_not_found", [], {"original": POSTED}, True),
        ("original_not_found", [], {"original": POSTED._replace(seq=5)}, False),
        ("original_not_found", [], {"original": POSTED._replace(lane=2)}, True),
        ("original_not_found", [], {"original": POSTED._replace(lane=2, booked_time=BOOKED - 1)}, False),
        ("original_not_reversible", [], {}, True),
        ("original_not_reversible", [], {"original": POSTED}, True),
        ("original_not_reversible", [], {"original": POSTED._replace(type="reversal")}, False),
        ("original_not_reversible", [], {"original": POSTED._replace(outcome="rejected")}, False),
        ("reversal_exceeds_original", [], {}, True),
        ("reversal_exceeds_original", [], {"original": POSTED, "moved": MOVED}, True),
        ("reversal_exceeds_original", [], {"original": POSTED, "moved": HALF}, True),
        ("reversal_exceeds_original", [], {"original": POSTED, "moved": TAKEN}, False),
        ("reversal_exceeds_original", DRAW, {"original": POSTED, "moved": MOVED}, True),
        ("reversal_exceeds_original", DRAW, {"original": POSTED, "moved": HALF}, False),
        ("insufficient_funds", [], {"moved": MOVED, "wallet": Holding(-1, 0, 0, 70, 0, True)}, True),
        ("insufficient_funds", [], {"moved": MOVED, "wallet": Holding(-1, 0, 0, 69, 0, True)}, False),
    ],
)
def test_reversals_are_judged_by_what_they_reverse(
    reason: str, legs: list[dict[str, Any]], says: dict[str, Any], is_wrong: bool
) -> None:
    assert bool(rejected(reason, asked(type="reversal", reverses=ORIGINAL, legs=legs), **says)) == is_wrong


@pytest.mark.parametrize(
    ("reason", "wallet", "is_wrong"),
    [
        ("insufficient_funds", Holding(-1, 0, 0, 69, 0, True), False),
        ("insufficient_funds", Holding(-1, 0, 0, 70, 0, True), True),
        ("insufficient_funds", Holding(-1, 0, 1, 70, 0, True), False),
        ("insufficient_funds", Holding(-1, 0, 0, 70, 1, True), False),
        ("insufficient_funds", Holding(-1, 0, 0, 71, 1, True), True),
        ("insufficient_funds", Holding(-1, 0, 0, 71, 1, False), False),
        ("insufficient_funds", Holding(-1, 1, 0, 70, 0, True), False),
        ("insufficient_funds", Holding(-1, -1, 0, 69, 0, True), True),
        ("insufficient_funds", Holding(-1, None, 0, 0, 0, True), True),
        ("insufficient_funds", Holding(1, 0, 0, 0, 0, True), True),
        ("insufficient_funds", None, False),
        ("amount_overflow", Holding(-1, 0, 2 * MAX, 70, 0, True), True),
        ("amount_overflow", None, True),
    ],
)
def test_funds_are_judged_by_what_an_account_held_at_least(reason: str, wallet: Holding | None, is_wrong: bool) -> None:
    assert bool(rejected(reason, asked(legs=DRAW), wallet=wallet)) == is_wrong


SELF_MOVE = [leg(WALLET, "debit", 71), leg(WALLET, "credit", 71)]
TOO_MUCH = [leg(WALLET, "debit", MAX), leg(WALLET, "debit", 1), leg(BANK, "credit", MAX), leg(BANK, "credit", 1)]
FEE = [leg(BANK, "debit", 100), leg(WALLET, "credit", 100), leg(WALLET, "debit", 70), leg(BANK, "credit", 70)]


@pytest.mark.parametrize(
    ("reason", "legs", "held", "is_wrong"),
    [
        ("insufficient_funds", SELF_MOVE, 70, False),
        ("insufficient_funds", SELF_MOVE, 71, True),
        ("insufficient_funds", FEE, 69, False),
        ("insufficient_funds", FEE, 70, True),
        ("insufficient_funds", TOO_MUCH, 0, True),
        ("amount_overflow", TOO_MUCH, 0, False),
        ("amount_overflow", SELF_MOVE, 0, True),
    ],
)
def test_what_an_intent_takes_had_to_be_there_before(
    reason: str, legs: list[dict[str, Any]], held: int, is_wrong: bool
) -> None:
    assert bool(rejected(reason, asked(legs=legs), wallet=Holding(-1, 0, 0, held, 0, True))) == is_wrong


@pytest.mark.parametrize(
    ("asked_time", "before_time"),
    [
        (BOOKED + 5, BOOKED - MARGIN_MICROSECONDS),
        (BOOKED - 5, BOOKED - 5 - MARGIN_MICROSECONDS),
        (0, BOOKED - MARGIN_MICROSECONDS),
    ],
)
def test_a_clock_that_runs_ahead_does_not_widen_what_came_before(asked_time: int, before_time: int) -> None:
    ledger = Ledger()
    record = {"lane": 1, "seq": 4, "reason": "insufficient_funds", "booked_time": BOOKED, "reverses": None}
    judge([Rejection(cast("JournalRecord", record), asked(legs=DRAW), asked_time)], cast("Any", ledger))
    assert ledger.asked[0] == HoldingAsked("default", WALLET, "EUR", 1, 4, before_time)
