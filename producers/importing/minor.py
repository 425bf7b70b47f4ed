"""Drafts counted in minor units: every intent that comes out balances in every currency on its own."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Final

from domain.intents import (
    AMOUNT_MINOR_MAX,
    CREDIT,
    DEBIT,
    LEGS_MAX,
    REFERENCE_CHARACTERS_MAX,
    VALUE_TIME_MAX,
    VALUE_TIME_MIN,
    Leg,
)
from domain.money import AmountError, to_minor
from producers.importing.addresses import ROUNDING_ACCOUNT
from producers.importing.model import Draft, DraftLeg, ImportIntent, LegOrigin, Problem
from producers.importing.units import UnitPlan

# Beyond Python's 28, so that an amount with more digits is found not to be exact rather than rounded unseen.
DIGITS_MAX: Final = 200


@dataclass(frozen=True)
class MappedLedger:
    """What can be posted, what cannot, and what was rounded on the way."""

    intents: list[ImportIntent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rounded: dict[tuple[str, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """(account, currency) -> what the booked amounts exceed the source's by; see `map_drafts`."""


class _UnmappableError(ValueError):
    """Why a draft cannot become an intent, in one sentence."""


def map_drafts(drafts: Iterable[Draft], plan: UnitPlan, *, round_written: bool = False) -> MappedLedger:
    """Count all drafts in minor units.

    A written amount with more decimals than its currency makes its transaction a problem, unless `round_written`
    rounds it half to even. An interpolated amount is always rounded so. What rounding leaves of a transaction is booked
    to equity:rounding, as a leg of its own.
    """
    mapped = MappedLedger()
    with localcontext(prec=DIGITS_MAX):
        for draft in drafts:
            try:
                intent, rounded = _intent(draft, plan, round_written=round_written)
            except _UnmappableError as error:
                mapped.problems.append(Problem(draft.place, str(error)))
                continue
            mapped.intents.append(intent)
            for where, difference in rounded.items():
                mapped.rounded[where] += difference
    return mapped


def _intent(
    draft: Draft, plan: UnitPlan, *, round_written: bool
) -> tuple[ImportIntent, dict[tuple[str, str], Decimal]]:
    rounded: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    residuals: dict[str, int] = defaultdict(int)
    slack: dict[str, Decimal] = defaultdict(Decimal)
    legs: list[Leg] = []
    for leg in draft.legs:
        minor, difference = _minor(leg, plan, round_written=round_written)
        if difference:
            slack[leg.currency] += Decimal("0.5")
            if leg.origin is not LegOrigin.WEIGHED:
                rounded[leg.account, leg.currency] += difference
        residuals[leg.currency] += minor
        if minor:
            legs.append(_leg(leg.account, minor, leg.currency))
    legs.extend(_rounding_legs(draft, plan, residuals, slack))
    _check(draft, legs)
    reference = draft.reference.replace("\x00", "")[:REFERENCE_CHARACTERS_MAX] if draft.reference else None
    intent = ImportIntent(draft.place, draft.idempotency_key, tuple(legs), reference, draft.metadata, draft.value_time)
    return intent, rounded


def _leg(account: str, minor: int, currency: str) -> Leg:
    return Leg(account, DEBIT if minor > 0 else CREDIT, abs(minor), currency)


def _minor(leg: DraftLeg, plan: UnitPlan, *, round_written: bool) -> tuple[int, Decimal]:
    """The leg's signed count of minor units, and by how much of the currency it exceeds the leg's own amount."""
    exponent = plan.exponents.get(leg.currency)
    if exponent is None:
        raise _UnmappableError(f"The commodity {leg.currency} {plan.impossible.get(leg.currency, 'has no exponent')}.")
    amount = leg.amount
    if len(amount.as_tuple().digits) > DIGITS_MAX:
        raise _UnmappableError(f"An amount in {leg.account} has more than {DIGITS_MAX} digits.")
    if leg.origin is not LegOrigin.WRITTEN or round_written:
        amount = round(amount.scaleb(exponent).to_integral_value(ROUND_HALF_EVEN)) * Decimal(1).scaleb(-exponent)
    try:
        return to_minor(amount, exponent), amount - leg.amount
    except AmountError as error:
        hint = " (--round books it rounded)" if "decimal places" in str(error) else ""
        raise _UnmappableError(
            f"The amount {leg.amount} {leg.currency} in {leg.account} cannot be booked: {error}{hint}."
        ) from error


def _rounding_legs(draft: Draft, plan: UnitPlan, residuals: dict[str, int], slack: dict[str, Decimal]) -> list[Leg]:
    """One leg per currency in which rounding left something, where the source's tolerance and rounding explain it."""
    legs = []
    for currency, residual in residuals.items():
        if not residual:
            continue
        tolerance = draft.tolerances.get(currency, Decimal(0)).scaleb(plan.exponents[currency])
        if abs(residual) > tolerance + slack[currency]:
            difference = Decimal(abs(residual)).scaleb(-plan.exponents[currency])
            more, less = ("debits", "credits") if residual > 0 else ("credits", "debits")
            raise _UnmappableError(
                f"The transaction does not balance: its {more} in {currency} exceed its {less} by {difference}."
            )
        legs.append(_leg(ROUNDING_ACCOUNT, -residual, currency))
    return legs


def _check(draft: Draft, legs: list[Leg]) -> None:
    if len(legs) < 2:
        raise _UnmappableError("After rounding to minor units nothing is left to book.")
    if len(legs) > LEGS_MAX:
        raise _UnmappableError(f"It has {len(legs)} legs; an intent has at most {LEGS_MAX}.")
    if any(leg.amount_minor > AMOUNT_MINOR_MAX for leg in legs):
        raise _UnmappableError("An amount does not fit in 64 bits of minor units.")
    if not VALUE_TIME_MIN <= draft.value_time < VALUE_TIME_MAX:
        raise _UnmappableError("Its date lies outside the years 1900 to 2199.")


def sums_of(intents: Iterable[ImportIntent]) -> dict[tuple[str, str], int]:
    """Per (account, currency) the debits less the credits of all intents, in minor units."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for intent in intents:
        for leg in intent.legs:
            sums[leg.account, leg.currency] += leg.direction * leg.amount_minor
    return sums
