"""Convert drafts to minor units. Every resulting intent balances in each of its currencies."""

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

# More than Python's default of 28, so that an amount with more digits is reported, not silently rounded.
DIGITS_MAX: Final = 200


@dataclass(frozen=True)
class MappedLedger:
    """The intents that can be posted, the problems of the other drafts, and the rounding differences."""

    intents: list[ImportIntent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rounded: dict[tuple[str, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """(account, currency) -> the amount by which the booked amounts exceed the source's; see `map_drafts`."""


class _UnmappableError(ValueError):
    """A draft cannot become an intent. The message says why in one sentence."""


def map_drafts(drafts: Iterable[Draft], plan: UnitPlan, *, round_written: bool = False) -> MappedLedger:
    """Convert all drafts to minor units.

    A written amount with more decimals than its currency makes its transaction a problem, unless `round_written`
    rounds it half to even. Interpolated and weighed amounts are always rounded half to even. What rounding adds to one
    side of a transaction is booked to equity:rounding as a separate leg.
    """
    mapped = MappedLedger()
    with localcontext(prec=DIGITS_MAX):
        for draft in drafts:
            try:
                intent, rounded = _make_intent(draft, plan, round_written=round_written)
            except _UnmappableError as error:
                mapped.problems.append(Problem(draft.place, str(error)))
                continue
            mapped.intents.append(intent)
            for where, difference in rounded.items():
                mapped.rounded[where] += difference
    return mapped


def _make_intent(
    draft: Draft, plan: UnitPlan, *, round_written: bool
) -> tuple[ImportIntent, dict[tuple[str, str], Decimal]]:
    rounded: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    residuals: dict[str, int] = defaultdict(int)
    slack: dict[str, Decimal] = defaultdict(Decimal)
    legs: list[Leg] = []
    for leg in draft.legs:
        minor, difference = _compute_minor(leg, plan, round_written=round_written)
        if difference:
            slack[leg.currency] += Decimal("0.5")
            if leg.origin is not LegOrigin.WEIGHED:
                rounded[leg.account, leg.currency] += difference
        residuals[leg.currency] += minor
        if minor:
            legs.append(_make_leg(leg.account, minor, leg.currency))
    legs.extend(_make_rounding_legs(draft, plan, residuals, slack))
    _check(draft, legs)
    reference = draft.reference.replace("\x00", "")[:REFERENCE_CHARACTERS_MAX] if draft.reference else None
    intent = ImportIntent(draft.place, draft.idempotency_key, tuple(legs), reference, draft.metadata, draft.value_time)
    return intent, rounded


def _make_leg(account: str, minor: int, currency: str) -> Leg:
    return Leg(account, DEBIT if minor > 0 else CREDIT, abs(minor), currency)


def _compute_minor(leg: DraftLeg, plan: UnitPlan, *, round_written: bool) -> tuple[int, Decimal]:
    """Return the leg's signed amount in minor units, and its excess over the leg's own amount, in the currency."""
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


def _make_rounding_legs(
    draft: Draft, plan: UnitPlan, residuals: dict[str, int], slack: dict[str, Decimal]
) -> list[Leg]:
    """Return one leg for each currency in which rounding left a residual.

    Raise _UnmappableError if the residual is more than the source's tolerance and the rounding explain.
    """
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
        legs.append(_make_leg(ROUNDING_ACCOUNT, -residual, currency))
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


def compute_sums(intents: Iterable[ImportIntent]) -> dict[tuple[str, str], int]:
    """Return the debits less the credits of all intents by (account, currency), in minor units."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for intent in intents:
        for leg in intent.legs:
            sums[leg.account, leg.currency] += leg.direction * leg.amount_minor
    return sums
