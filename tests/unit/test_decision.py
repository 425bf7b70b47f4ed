"""The posting decision: tables of cases, then random intents in random batches against a simple ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.chart import AccountClass, Chart, ChartPattern
from domain.decision import Constraint, Event, Fate, LedgerView, Original, decide_batch, mirror_legs
from domain.fingerprint import compute_fingerprint
from domain.intents import Intent, Leg
from domain.outcomes import Outcome, QuarantineReason
from domain.screening import refuse_by_books, refuse_shape
from tests.intent_strategies import cuts, intent_sequences
from tests.posting_cases import SEQUENCES
from tests.posting_model import MODEL_CHART, LedgerModel, chart_line, leg, pair, reversal, script, transfer

CHART = Chart(
    [ChartPattern(pattern, AccountClass(kind), side, floor) for pattern, (kind, side, floor) in MODEL_CHART.items()]
)
EMPTY_VIEW = LedgerView({}, {}, {}, {})


def event_of(intent: Intent, offset: int = 0, lane: int = 0) -> Event:
    """Return the event that decoding and screening make of an intent."""
    fingerprint = compute_fingerprint(
        intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference, intent.metadata
    )
    return Event(lane, offset, fingerprint, intent, refuse_shape(intent) or refuse_by_books(intent.legs, CHART, {}))


def label(fate: Fate) -> str:
    """Return the reason, or the outcome if there is no reason."""
    return fate.reason or fate.outcome.value


@dataclass
class MemoryLedger:
    """Stands in for Postgres: gives each batch its view, and keeps the decisions of the batch."""

    settled: dict[object, bytes] = field(default_factory=dict)
    originals: dict[object, Original] = field(default_factory=dict)
    balances: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def post(self, intents: Sequence[Intent]) -> list[Fate]:
        """Decide one batch, keep its effects, and return the fates."""
        events = [event_of(intent, offset) for offset, intent in enumerate(intents)]
        names = {(intent.tenant, each.account) for intent in intents for each in intent.legs}
        names |= {(tenant, account) for tenant, account, _ in self.balances}
        constraints = {}
        for tenant, account in names:
            line = chart_line(account)
            if line is not None and line[2] is not None:
                constraints[tenant, account] = Constraint(line[1], line[2])
        view = LedgerView(dict(self.settled), dict(self.originals), constraints, dict(self.balances))
        fates = decide_batch(events, view)
        for event, fate in zip(events, fates, strict=True):
            self._keep(event, fate)
        return fates

    def _keep(self, event: Event, fate: Fate) -> None:
        intent = event.intent
        assert intent is not None
        if fate.outcome not in (Outcome.POSTED, Outcome.REJECTED):
            return
        name = (intent.tenant, intent.intent_id)
        assert name not in self.settled, "an intent was settled twice"
        self.settled[name] = event.fingerprint
        self.originals[name] = Original(fate.outcome, intent.type, fate.legs, {})
        for each in fate.legs:
            self.balances[intent.tenant, each.account, each.currency] += each.direction * each.amount_minor
        if intent.reverses is not None and fate.legs:
            original = self.originals[intent.tenant, intent.reverses]
            done = Counter(original.reversed)
            for each in fate.legs:
                done[each.account, -each.direction, each.currency] += each.amount_minor
            self.originals[intent.tenant, intent.reverses] = original._replace(reversed=dict(done))


FUND, SPEND = script("fund free:bank>zero:a 100 | spend zero:a>free:bank 60")
(SPLIT,) = script("split free:bank>zero:a 30 + free:bank>zero:a 30 + free:b>zero:c 7JPY")


@pytest.mark.parametrize(("moves", "outcomes"), SEQUENCES)
def test_a_sequence_has_its_fates_in_one_batch_and_one_by_one(moves: str, outcomes: str) -> None:
    intents = script(moves)
    assert " ".join(label(fate) for fate in MemoryLedger().post(intents)) == outcomes
    singly = MemoryLedger()
    assert " ".join(label(fate) for intent in intents for fate in singly.post([intent])) == outcomes


def test_a_posted_intent_has_its_legs_as_asked_and_no_other_outcome_has_any() -> None:
    posted, duplicate, conflict, rejected = MemoryLedger().post(
        [FUND, FUND, FUND._replace(reference="x"), SPEND._replace(legs=())]
    )
    assert posted == Fate(Outcome.POSTED, legs=FUND.legs)
    assert (duplicate.legs, conflict.legs, rejected.legs) == ((), (), ())
    assert duplicate.reason == "" == conflict.reason


def test_a_whole_reversal_posts_the_mirror_of_what_is_left() -> None:
    ledger = MemoryLedger()
    ledger.post([SPLIT, reversal("part", "split", *pair("zero:a", "free:bank", 25))])
    (fate,) = ledger.post([reversal("rest", "split")])
    assert sorted(fate.legs) == sorted((*pair("zero:a", "free:bank", 35), *pair("zero:c", "free:b", 7, "JPY")))
    assert not +ledger.balances
    assert not -ledger.balances


def test_mirrored_merges_legs_and_leaves_out_what_is_reversed() -> None:
    original = Original(
        Outcome.POSTED, "transfer", SPLIT.legs, {("zero:a", -1, "EUR"): 60, ("free:bank", 1, "EUR"): 59}
    )
    assert mirror_legs(original) == (leg("free:bank", -1, 1), leg("free:b", -1, 7, "JPY"), leg("zero:c", 1, 7, "JPY"))


@pytest.mark.parametrize("reason", list(QuarantineReason))
def test_quarantine_comes_before_everything(reason: QuarantineReason) -> None:
    event = Event(0, 0, bytes(32), None, None, (reason, "why"))
    assert decide_batch([event], EMPTY_VIEW) == [Fate(Outcome.QUARANTINED, reason.value, "why")]


def test_an_event_that_has_neither_intent_nor_reason_is_a_bug() -> None:
    with pytest.raises(ValueError, match="either an intent or a reason"):
        decide_batch([Event(0, 0, bytes(32), None)], EMPTY_VIEW)


def test_the_detail_of_a_refused_draw_says_what_is_there_and_what_must_stay() -> None:
    _, fate = MemoryLedger().post([FUND, transfer("s", *pair("zero:a", "free:bank", 101))])
    assert fate.detail == "zero:a holds 100 minor units of EUR; 101 are drawn, and 0 must stay."


def test_the_view_is_not_changed() -> None:
    original = Original(Outcome.POSTED, "transfer", FUND.legs, {})
    name = (FUND.tenant, FUND.intent_id)
    view = LedgerView(
        {}, {name: original}, {("default", "zero:a"): Constraint(-1, 0)}, {("default", "zero:a", "EUR"): -100}
    )
    decide_batch([event_of(reversal("r", "fund"))], view)
    assert original.reversed == {}
    assert view.balances == {("default", "zero:a", "EUR"): -100}
    assert view.settled == {}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_sequence_in_any_batches_has_the_naive_ledgers_fates(data: st.DataObject) -> None:
    intents = data.draw(intent_sequences())
    sizes = data.draw(cuts(len(intents)))
    model = LedgerModel()
    expected = [model.post(intent) for intent in intents]
    ledger = MemoryLedger()
    fates: list[Fate] = []
    for size in sizes:
        fates += ledger.post(intents[len(fates) :][:size])
    assert [label(fate) for fate in fates] == expected
    assert {(account, currency): amount for (_, account, currency), amount in ledger.balances.items() if amount} == {
        name: amount for name, amount in model.balances.items() if amount
    }


@settings(max_examples=100, deadline=None)
@given(intents=intent_sequences())
def test_books_stay_symmetric_and_no_floor_is_broken_at_any_prefix(intents: list[Intent]) -> None:
    balances: Counter[tuple[str, str]] = Counter()
    for fate in MemoryLedger().post(intents):
        moved: Counter[tuple[str, str]] = Counter()
        for each in fate.legs:
            moved[each.account, each.currency] += each.direction * each.amount_minor
        balances.update(moved)
        totals: Counter[str] = Counter()
        for (_, currency), amount in balances.items():
            totals[currency] += amount
        assert not any(totals.values())
        for (account, currency), change in moved.items():
            line = chart_line(account)
            assert line is not None
            _, side, floor = line
            drawn = change * side < 0
            assert floor is None or not drawn or balances[account, currency] * side >= floor


def test_a_leg_is_what_it_says() -> None:
    assert FUND.legs == (Leg("free:bank", 1, 100, "EUR"), Leg("zero:a", -1, 100, "EUR"))
