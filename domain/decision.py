"""The posting decision: a pure function that takes ordered events and the state of the ledger, and returns fates.

It reads no clock and no database, and does not change its arguments.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from domain.intents import AMOUNT_MINOR_MAX, DIRECTION_NAMES, Intent, Leg
from domain.outcomes import Outcome, QuarantineReason, Reason
from domain.screening import Refusal, make_shown

IntentName = tuple[str, UUID]
"""Tenant and intent id."""
Holding = tuple[str, str, str]
"""Tenant, account address, currency."""


class Event(NamedTuple):
    """One offset of a lane, decoded and screened."""

    lane: int
    offset: int
    fingerprint: bytes
    """Of the intent, or of the raw bytes if there is no intent."""
    intent: Intent | None
    refusal: Refusal | None = None
    """Why screening refuses the intent; None if it does not."""
    quarantine: tuple[QuarantineReason, str] | None = None
    """Why there is no intent to decide, as a reason and a sentence; None if there is one."""


class Original(NamedTuple):
    """A settled intent that a reversal names, and how much of it is reversed already."""

    outcome: Outcome
    type: str
    legs: tuple[Leg, ...]
    reversed: Mapping[tuple[str, int, str], int]
    """(account, direction of the original's leg, currency) -> amount in minor units."""


class Constraint(NamedTuple):
    """An account that has a floor."""

    normal_direction: int
    floor_minor: int


class LedgerView(NamedTuple):
    """The state of the ledger when the batch's locks were taken."""

    settled: Mapping[IntentName, bytes]
    """Fingerprint of each intent of the batch that was settled before this batch."""
    originals: Mapping[IntentName, Original]
    """The settled intents that the batch's reversals name."""
    constraints: Mapping[tuple[str, str], Constraint]
    """(tenant, address) -> constraint, for every constrained account that the batch touches."""
    balances: Mapping[Holding, int]
    """Debits minus credits over all lanes, for constrained accounts that the batch may draw down; 0 if missing."""


class Fate(NamedTuple):
    """The result of one event."""

    outcome: Outcome
    reason: str = ""
    detail: str = ""
    legs: tuple[Leg, ...] = ()
    """The legs as posted; empty for every other outcome."""


def mirror_legs(original: Original) -> tuple[Leg, ...]:
    """Return the legs that would reverse everything still unreversed, merged by account, direction and currency."""
    totals: dict[tuple[str, int, str], int] = {}
    for leg in original.legs:
        key = (leg.account, leg.direction, leg.currency)
        totals[key] = totals.get(key, 0) + leg.amount_minor
    return tuple(
        Leg(account, -direction, amount - original.reversed.get((account, direction, currency), 0), currency)
        for (account, direction, currency), amount in totals.items()
        if amount > original.reversed.get((account, direction, currency), 0)
    )


def make_reversal_legs(intent: Intent, original: Original | None) -> tuple[Leg, ...] | Refusal:
    """Return the legs of a reversal: the asked legs, or all that is left of the original if none were asked.

    Return a Refusal if the original cannot be reversed, or if the asked legs exceed what is left of it.
    """
    if original is None:
        return Refusal(Reason.ORIGINAL_NOT_FOUND, f"No posted intent has the id {intent.reverses}.")
    if original.outcome is not Outcome.POSTED or original.type != "transfer":
        return Refusal(Reason.ORIGINAL_NOT_REVERSIBLE, f"The intent {intent.reverses} is no posted transfer.")
    left = mirror_legs(original)
    if not left:
        return Refusal(Reason.REVERSAL_EXCEEDS_ORIGINAL, f"All of the intent {intent.reverses} is reversed already.")
    if not intent.legs:
        return left
    room = {(leg.account, leg.direction, leg.currency): leg.amount_minor for leg in left}
    for leg in intent.legs:
        key = (leg.account, leg.direction, leg.currency)
        room[key] = room.get(key, 0) - leg.amount_minor
        if room[key] < 0:
            return Refusal(
                Reason.REVERSAL_EXCEEDS_ORIGINAL,
                f"The {DIRECTION_NAMES[leg.direction]} of {make_shown(leg.account)} in {leg.currency}"
                f" is {-room[key]} minor units more than is left to reverse.",
            )
    return intent.legs


def find_holdings_drawn_down(
    tenant: str, legs: Iterable[Leg], constraints: Mapping[tuple[str, str], Constraint]
) -> list[Holding]:
    """Return the constrained holdings that these legs draw down, in the order of the legs."""
    drawn = []
    for leg in legs:
        constraint = constraints.get((tenant, leg.account))
        if constraint is not None and leg.direction != constraint.normal_direction:
            drawn.append((tenant, leg.account, leg.currency))
    return drawn


class _Decider:
    """The working state of one batch: the view, and the changes that the batch has made so far."""

    def __init__(self, view: LedgerView) -> None:
        self._view = view
        self._settled: dict[IntentName, tuple[Event, Fate]] = {}
        # The originals that reversals of this batch have reversed in whole or in part.
        self._originals: dict[IntentName, Original] = {}
        self._balances: dict[Holding, int] = {}

    def decide(self, event: Event) -> Fate:
        """Return the event's fate, and remember what it settles and moves for the events after it."""
        if event.quarantine is not None:
            reason, detail = event.quarantine
            return Fate(Outcome.QUARANTINED, reason.value, detail)
        intent = event.intent
        if intent is None:
            raise ValueError("an event has either an intent or a reason for quarantine")
        name = (intent.tenant, intent.intent_id)
        before = self._settled.get(name)
        first = self._view.settled.get(name) if before is None else before[0].fingerprint
        if first is not None:
            if first == event.fingerprint:
                return Fate(Outcome.DUPLICATE)
            return Fate(Outcome.IDEMPOTENCY_CONFLICT, detail="The key was used before with another body.")
        fate = self._settle(intent, event.refusal)
        self._settled[name] = event, fate
        if intent.reverses is not None and fate.outcome is Outcome.POSTED:
            self._take_back((intent.tenant, intent.reverses), fate.legs)
        return fate

    def _settle(self, intent: Intent, refusal: Refusal | None) -> Fate:
        legs = refusal or self._choose_legs(intent)
        if isinstance(legs, Refusal):
            return _make_rejected(legs)
        refused = _refuse_overflow(legs) or self._take_funds(intent.tenant, legs)
        return Fate(Outcome.POSTED, legs=legs) if refused is None else _make_rejected(refused)

    def _choose_legs(self, intent: Intent) -> tuple[Leg, ...] | Refusal:
        if intent.reverses is None:
            return intent.legs
        return make_reversal_legs(intent, self._find_original((intent.tenant, intent.reverses)))

    def _find_original(self, name: IntentName) -> Original | None:
        if name in self._originals:
            return self._originals[name]
        if name not in self._settled:
            return self._view.originals.get(name)
        event, fate = self._settled[name]
        assert event.intent is not None  # noqa: S101 - a settled event had an intent
        return Original(fate.outcome, event.intent.type, fate.legs, {})

    def _take_funds(self, tenant: str, legs: tuple[Leg, ...]) -> Refusal | None:
        """Move the constrained balances, or refuse the whole intent and move nothing.

        The amounts that an intent adds to an account do not cover the amounts that it takes from the same account: the
        account must hold all that is taken before the intent (docs/decisions/0016-an-account-on-both-sides.md).
        """
        constraints = self._view.constraints
        if not constraints:
            return None
        changes: dict[Holding, int] = {}
        drawn: dict[Holding, int] = {}
        for leg in legs:
            constraint = constraints.get((tenant, leg.account))
            if constraint is not None:
                holding = (tenant, leg.account, leg.currency)
                changes[holding] = changes.get(holding, 0) + leg.direction * leg.amount_minor
                if leg.direction != constraint.normal_direction:
                    drawn[holding] = drawn.get(holding, 0) + leg.amount_minor
        for holding, drawn_minor in drawn.items():
            _, account, currency = holding
            constraint = constraints[tenant, account]
            held_minor = self._get_balance(holding) * constraint.normal_direction
            if held_minor - drawn_minor < constraint.floor_minor:
                return Refusal(
                    Reason.INSUFFICIENT_FUNDS,
                    f"{account} holds {held_minor} minor units of {currency}; {drawn_minor} are drawn,"
                    f" and {constraint.floor_minor} must stay.",
                )
        for holding, change in changes.items():
            self._balances[holding] = self._get_balance(holding) + change
        return None

    def _get_balance(self, holding: Holding) -> int:
        balance = self._balances.get(holding)
        return self._view.balances.get(holding, 0) if balance is None else balance

    def _take_back(self, name: IntentName, legs: tuple[Leg, ...]) -> None:
        """Remember how much of its original a posted reversal has reversed."""
        original = self._find_original(name)
        if original is None:
            raise ValueError("a posted reversal has its original")
        done = dict(original.reversed)
        for leg in legs:
            key = (leg.account, -leg.direction, leg.currency)
            done[key] = done.get(key, 0) + leg.amount_minor
        self._originals[name] = original._replace(reversed=done)


def _make_rejected(refusal: Refusal) -> Fate:
    return Fate(Outcome.REJECTED, refusal.reason.value, refusal.detail)


def _refuse_overflow(legs: tuple[Leg, ...]) -> Refusal | None:
    """Refuse an intent whose own debits or credits of one currency do not fit in 64 bits."""
    if len(legs) == 2 and legs[0].direction != legs[1].direction:
        return None  # the usual case: a single amount always fits
    sums: dict[tuple[int, str], int] = {}
    for leg in legs:
        key = (leg.direction, leg.currency)
        sums[key] = sums.get(key, 0) + leg.amount_minor
        if sums[key] > AMOUNT_MINOR_MAX:
            return Refusal(Reason.AMOUNT_OVERFLOW, f"The legs in {leg.currency} add up to more than 64 bits hold.")
    return None


def decide_batch(events: Sequence[Event], view: LedgerView) -> list[Fate]:
    """Return the events' fates, in order. A lane's events must be in order of offset; lanes may be in any order."""
    decider = _Decider(view)
    return [decider.decide(event) for event in events]
