"""Checks whether a rejection was right: the books of that time must refuse the intent for the same reason again.

This is an independent implementation of docs/OUTCOMES.md. If the order of commits between lanes decides, a rule reports
a rejection only if it is wrong in every order that the evidence allows. docs/PROOF.md says what is not judged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from db.books import Books
from db.reconciliation import IntentName, Reversed
from db.rejections import Holding, HoldingAsked, OriginalRow
from domain.chart import Chart
from domain.intents import (
    ADDRESS_CHARACTERS_MAX,
    ADDRESS_PATTERN,
    AMOUNT_MINOR_MAX,
    DIRECTIONS,
    LEGS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_KEY_PATTERN,
    METADATA_VALUE_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    VALUE_TIME_MAX,
    VALUE_TIME_MIN,
)
from domain.money import get_exponent, get_iso_exponent
from domain.outcomes import Outcome, Reason
from streams.proof.records.decoding import IntentRecord, JournalRecord, LegRecord

# The largest clock difference between two workers, plus the time from a row's booking to its COMMIT. Postgres limits
# that time to 60 seconds if a worker stalls.
MARGIN_MICROSECONDS: Final = 120_000_000

_BY_SHAPE: Final = (
    Reason.MALFORMED,
    Reason.UNSUPPORTED_TYPE,
    Reason.NO_LEGS,
    Reason.TOO_MANY_LEGS,
    Reason.INVALID_AMOUNT,
    Reason.UNBALANCED,
    Reason.VALUE_TIME_OUT_OF_RANGE,
)
# Release 0.1.0 checked addresses only after all rules on the intent alone and after currencies. So an intent with an
# invalid address may have been rejected for any of these reasons.
_FOR_AN_ODD_ADDRESS: Final = (*_BY_SHAPE, Reason.UNKNOWN_CURRENCY, Reason.UNKNOWN_ACCOUNT)
_BY_BOOKS: Final = (Reason.UNKNOWN_CURRENCY, Reason.UNKNOWN_ACCOUNT, Reason.CURRENCY_NOT_ALLOWED)
_BY_ORIGINAL: Final = (
    Reason.ORIGINAL_NOT_FOUND,
    Reason.ORIGINAL_NOT_REVERSIBLE,
    Reason.REVERSAL_EXCEEDS_ORIGINAL,
)
_BY_HOLDINGS: Final = (Reason.AMOUNT_OVERFLOW, Reason.INSUFFICIENT_FUNDS)

Place = tuple[str, str]
"""Account and currency."""


class Rejection(NamedTuple):
    """A rejected record and the intent at its offset."""

    record: JournalRecord
    asked: IntentRecord
    asked_time: int
    """When the message was written, in microseconds since 1970; 0 or less if the message has no timestamp."""

    @property
    def name(self) -> IntentName:
        """Return the name of the intent that this intent reverses."""
        return self.asked["tenant"], self.record["reverses"] or ""

    @property
    def before_time(self) -> int:
        """Return the time limit for rows of other lanes, in microseconds since 1970.

        A row that another lane booked before this time was surely committed when this rejection was decided.
        """
        times = [self.record["booked_time"], self.asked_time] if self.asked_time > 0 else [self.record["booked_time"]]
        return min(times) - MARGIN_MICROSECONDS


class Lookups(Protocol):
    """The queries to the ledger that the rules need. Each query serves a whole batch."""

    def books(self) -> tuple[Books, int]:
        """Return today's frame of the books and the time of its last change, in microseconds since 1970."""

    def originals(self, names: Sequence[IntentName]) -> dict[IntentName, OriginalRow]:
        """Return the rows that settled these intents."""

    def reversals(self, names: Sequence[IntentName]) -> dict[IntentName, Reversed]:
        """Return what these originals moved and how much of it reversals took back."""

    def holdings(self, asked: Sequence[HoldingAsked]) -> list[Holding | None]:
        """Return what each of these accounts holds; None for an account that is not open."""


# ------------------------------------------------------------------------------------------------ from the intent alone


def find_shape_reason(intent: IntentRecord) -> Reason | None:
    """Return the first reason to refuse the intent that does not depend on the books; None if there is none."""
    legs, kind = intent["legs"], intent["type"]
    if _is_malformed(intent):
        return Reason.MALFORMED
    if kind not in ("transfer", "reversal"):
        return Reason.UNSUPPORTED_TYPE
    if len(legs) < 2 and not (kind == "reversal" and not legs):
        return Reason.NO_LEGS
    if len(legs) > LEGS_MAX:
        return Reason.TOO_MANY_LEGS
    if any(not 1 <= leg["amount_minor"] <= AMOUNT_MINOR_MAX for leg in legs):
        return Reason.INVALID_AMOUNT
    if any(debits != credits for debits, credits in _sum_sides(legs).values()):
        return Reason.UNBALANCED
    # An acceptance time of 0 means none: the value time is then the time of booking. 0 lies within the range.
    value_time = intent["accepted_time"] if intent["value_time"] is None else intent["value_time"]
    if not VALUE_TIME_MIN <= value_time < VALUE_TIME_MAX:
        return Reason.VALUE_TIME_OUT_OF_RANGE
    return None


def _is_malformed(intent: IntentRecord) -> bool:
    reference, metadata = intent["reference"], intent["metadata"]
    texts = [(reference or "", REFERENCE_CHARACTERS_MAX)]
    texts += [(value, METADATA_VALUE_CHARACTERS_MAX) for value in metadata.values()]
    return (
        any(len(text) > characters_max or "\x00" in text for text, characters_max in texts)
        or len(metadata) > METADATA_ENTRIES_MAX
        or not all(map(METADATA_KEY_PATTERN.fullmatch, metadata))
        or (intent["type"] == "reversal" and intent["reverses"] is None)
        or (intent["type"] == "transfer" and intent["reverses"] is not None)
        or any(leg["direction"] not in DIRECTIONS or not is_address(leg["account"]) for leg in intent["legs"])
    )


def is_address(text: str) -> bool:
    """Return whether an account of any chart can have this address."""
    return len(text) <= ADDRESS_CHARACTERS_MAX and ADDRESS_PATTERN.fullmatch(text) is not None


def _sum_sides(legs: Sequence[LegRecord]) -> dict[str, tuple[int, int]]:
    """Return currency -> (debits, credits)."""
    sums: dict[str, tuple[int, int]] = {}
    for leg in legs:
        debits, credits = sums.get(leg["currency"], (0, 0))
        if leg["direction"] == "debit":
            debits += leg["amount_minor"]
        else:
            credits += leg["amount_minor"]
        sums[leg["currency"]] = debits, credits
    return sums


# ------------------------------------------------------------------------------------------------ from the books' frame


def find_books_reason(legs: Sequence[LegRecord], chart: Chart, units: Mapping[str, int]) -> Reason | None:
    """Return the first reason for which the books refuse these legs; None if the books accept them."""
    if any(get_exponent(leg["currency"], dict(units)) is None for leg in legs):
        return Reason.UNKNOWN_CURRENCY
    lines = [(chart.match(leg["account"]), leg["currency"]) for leg in legs]
    if any(line is None for line, _ in lines):
        return Reason.UNKNOWN_ACCOUNT
    if any(line is not None and line.currencies is not None and unit not in line.currencies for line, unit in lines):
        return Reason.CURRENCY_NOT_ALLOWED
    return None


def judge_by_books(rejection: Rejection, books: Books, changed_time: int) -> list[str]:
    """Judge a rejection for an account or a currency. Today's frame counts only if it is older than the rejection."""
    record, legs = rejection.record, rejection.asked["legs"]
    if record["reason"] == Reason.UNKNOWN_CURRENCY.value and all(
        get_iso_exponent(leg["currency"]) is not None for leg in legs
    ):
        return ["It is rejected as unknown_currency, but each of its currencies is an ISO 4217 code."]
    chart = books.charts.get(rejection.asked["tenant"])
    if chart is None or changed_time >= record["booked_time"] - MARGIN_MICROSECONDS:
        return []
    return _compare(record, find_books_reason(legs, chart, books.units.get(rejection.asked["tenant"], {})))


# ------------------------------------------------------------------------------------------------ from the original


def judge_by_original(rejection: Rejection, original: OriginalRow | None, moved: Reversed | None) -> list[str]:
    """Judge a rejected reversal. What reversals took of an original only grows, so what fits today always fitted."""
    reason = rejection.record["reason"]
    if rejection.asked["type"] != "reversal":
        return [f"It is rejected as {reason}, but it is no reversal."]
    is_reversible = original is not None and (original.outcome, original.type) == (Outcome.POSTED.value, "transfer")
    if reason == Reason.ORIGINAL_NOT_FOUND.value:
        if original is not None and _is_before(original, rejection):
            return [f"It is rejected as {reason}, but lane {original.lane} seq {original.seq} had settled it."]
    elif reason == Reason.ORIGINAL_NOT_REVERSIBLE.value:
        if original is None:
            return [f"It is rejected as {reason}, but no row settles what it reverses."]
        if is_reversible:
            return [f"It is rejected as {reason}, but it reverses a posted transfer."]
    elif not is_reversible or moved is None:
        return [f"It is rejected as {reason}, but it reverses no posted transfer."]
    elif _is_within_int64(rejection.asked["legs"], moved):
        return [f"It is rejected as {reason}, but even today there is as much left to reverse."]
    return []


def _is_before(original: OriginalRow, rejection: Rejection) -> bool:
    """Return whether the original was surely committed when the rejection was decided."""
    record = rejection.record
    if original.lane == record["lane"]:
        return original.seq < record["seq"]
    return original.booked_time < rejection.before_time


def _is_within_int64(legs: Sequence[LegRecord], moved: Reversed) -> bool:
    left = {side: there - moved.taken.get(side, 0) for side, there in moved.original.items()}
    if not legs:
        return any(amount_minor > 0 for amount_minor in left.values())
    for leg in legs:
        side = (leg["account"], -DIRECTIONS[leg["direction"]], leg["currency"])
        left[side] = left.get(side, 0) - leg["amount_minor"]
    return all(amount_minor >= 0 for amount_minor in left.values())


# ------------------------------------------------------------------------------------------------ from the holdings


def sum_moved_at_most(rejection: Rejection, moved: Reversed | None) -> dict[Place, tuple[int, int]]:
    """Return (account, currency) -> the most debits and credits that the intent can move.

    A reversal without legs can move all that its original moved.
    """
    sums: dict[Place, tuple[int, int]] = {}
    sides = [
        ((leg["account"], leg["currency"]), DIRECTIONS[leg["direction"]], leg["amount_minor"])
        for leg in rejection.asked["legs"]
    ]
    if not sides and moved is not None:
        sides = [((account, unit), -side, amount) for (account, side, unit), amount in moved.original.items()]
    for place, direction, amount_minor in sides:
        debits, credits = sums.get(place, (0, 0))
        sums[place] = (debits + amount_minor, credits) if direction > 0 else (debits, credits + amount_minor)
    return sums


def judge_by_holdings(
    rejection: Rejection, moves: Mapping[Place, tuple[int, int]], holdings: Mapping[Place, Holding | None]
) -> list[str]:
    """Judge a rejection for lack of funds, or for legs that add up to more than 64 bits.

    When the rejection was decided, an account held at least today's balance less what may have come in since. Later
    draws only make this bound lower. If even the bound covers the intent, the intent should have been posted. What the
    intent pays into an account does not cover what it draws (docs/decisions/0016-an-account-on-both-sides.md).
    """
    reason = rejection.record["reason"]
    is_too_much = any(total > AMOUNT_MINOR_MAX for pair in _sum_totals(moves).values() for total in pair)
    if reason == Reason.AMOUNT_OVERFLOW.value:
        return [] if is_too_much else [f"It is rejected as {reason}, but its legs add up to no more than 64 bits hold."]
    if is_too_much and rejection.asked["legs"]:
        return _compare(rejection.record, Reason.AMOUNT_OVERFLOW)
    if not moves:
        return []
    for place, (debits, credits) in moves.items():
        holding = holdings.get(place)
        if holding is None or not _is_covered(holding, debits, credits):
            return []
    return [f"It is rejected as {reason}, but its accounts held what it draws, whatever came in or went out since."]


def _sum_totals(moves: Mapping[Place, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    totals: dict[str, tuple[int, int]] = {}
    for (_, unit), (debits, credits) in moves.items():
        before = totals.get(unit, (0, 0))
        totals[unit] = before[0] + debits, before[1] + credits
    return totals


def _is_covered(holding: Holding, debits_minor: int, credits_minor: int) -> bool:
    """Return whether the account surely held what these debits or credits draw from it."""
    direction, floor_minor = holding.normal_direction, holding.floor_minor
    drawn_minor = credits_minor if direction > 0 else debits_minor
    if floor_minor is None or drawn_minor == 0:
        return True
    if not holding.is_whole:
        return False
    at_least = (holding.debits_minor - holding.credits_minor) * direction - holding.late_minor
    return at_least - drawn_minor >= floor_minor


# ------------------------------------------------------------------------------------------------ a batch


def judge(rejections: Sequence[Rejection], lookups: Lookups) -> list[tuple[JournalRecord, str]]:
    """Return the records whose rejection was wrong, each with a sentence that says why."""
    wrong: list[tuple[JournalRecord, str]] = []
    waiting: dict[tuple[Reason, ...], list[Rejection]] = {}
    for rejection in rejections:
        expected = find_shape_reason(rejection.asked)
        said = rejection.record["reason"]
        groups = (reasons for reasons, _ in _JUDGES if said in reasons)
        group = next(groups, None)
        if said in _FOR_AN_ODD_ADDRESS and not all(is_address(leg["account"]) for leg in rejection.asked["legs"]):
            continue
        if expected is not None or group is None:
            wrong += [(rejection.record, detail) for detail in _compare(rejection.record, expected)]
        else:
            waiting.setdefault(group, []).append(rejection)
    for group, judge_group in _JUDGES:
        if group in waiting:
            wrong += judge_group(waiting[group], lookups)
    return wrong


def _compare(record: JournalRecord, expected: Reason | None) -> list[str]:
    said = record["reason"]
    if expected is None:
        return [f"It is rejected as {said[:80]}, but nothing speaks against it so far as that."]
    return [] if said == expected.value else [f"It is rejected as {said[:80]}, but it is {expected.value}."]


def _judge_books(rejections: Sequence[Rejection], lookups: Lookups) -> list[tuple[JournalRecord, str]]:
    books, changed_time = lookups.books()
    return [(each.record, detail) for each in rejections for detail in judge_by_books(each, books, changed_time)]


def _judge_originals(rejections: Sequence[Rejection], lookups: Lookups) -> list[tuple[JournalRecord, str]]:
    names = sorted({each.name for each in rejections if each.record["reverses"] is not None})
    originals = lookups.originals(names) if names else {}
    moved = lookups.reversals(names) if names else {}
    return [
        (each.record, detail)
        for each in rejections
        for detail in judge_by_original(each, originals.get(each.name), moved.get(each.name))
    ]


def _judge_holdings(rejections: Sequence[Rejection], lookups: Lookups) -> list[tuple[JournalRecord, str]]:
    names = sorted({each.name for each in rejections if each.record["reverses"] is not None})
    moved = lookups.reversals(names) if names else {}
    moves = [sum_moved_at_most(each, moved.get(each.name)) for each in rejections]
    asked = [
        HoldingAsked(each.asked["tenant"], account, unit, each.record["lane"], each.record["seq"], each.before_time)
        for each, places in zip(rejections, moves, strict=True)
        for account, unit in places
    ]
    answers = iter(lookups.holdings(asked) if asked else ())
    wrong = []
    for each, places in zip(rejections, moves, strict=True):
        holdings = {place: next(answers) for place in places}
        wrong += [(each.record, detail) for detail in judge_by_holdings(each, places, holdings)]
    return wrong


_JUDGES: Final[tuple[tuple[tuple[Reason, ...], Callable[..., list[tuple[JournalRecord, str]]]], ...]] = (
    (_BY_BOOKS, _judge_books),
    (_BY_ORIGINAL, _judge_originals),
    (_BY_HOLDINGS, _judge_holdings),
)
