"""Which exponent each commodity of a source has: ISO 4217's, the registered one, or one inferred from its amounts."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from domain.intents import CURRENCY_PATTERN
from domain.money import EXPONENT_MAX, iso_exponent
from producers.importing.model import Draft, ImportingError, LegOrigin, Place


class UnitPlan(NamedTuple):
    """What must be known before drafts can be counted in minor units."""

    exponents: dict[str, int]
    """Of every commodity that has one."""
    unregistered: dict[str, int]
    """Those of them that the books do not know yet: they must be registered before anything is posted."""
    impossible: dict[str, str]
    """Commodities that cannot become units, and why, in words that follow on from the code."""


class _Use(NamedTuple):
    decimals_written: int
    """As in 5.00, where trailing zeros show what people count the unit in."""
    decimals_needed: int
    """Without trailing zeros."""
    place: Place


def decimals_of(amount: Decimal) -> int:
    """The number of decimals that an amount is written with; 0 for whole numbers."""
    exponent = amount.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _decimals_needed(amount: Decimal) -> int:
    """The decimals without trailing zeros, counted on the digits, as arithmetic would round a long amount."""
    digits = format(amount, "f").partition(".")[2].rstrip("0")
    return len(digits)


def plan_units(
    drafts: Iterable[Draft], registered: Mapping[str, int], wanted: Mapping[str, int] | None = None
) -> UnitPlan:
    """Find every commodity's exponent; `registered` is what the tenant's books have, `wanted` what the user asks for.

    ImportingError where a registered unit has fewer decimals than the source uses, as a registered exponent cannot
    change: every amount already posted would change its meaning.
    """
    wanted = wanted or {}
    plan = UnitPlan({}, {}, {})
    for code, use in sorted(_uses(drafts).items()):
        exponent = iso_exponent(code)
        if exponent is not None:
            plan.exponents[code] = exponent
        elif not CURRENCY_PATTERN.fullmatch(code):
            plan.impossible[code] = (
                "is no code for a unit: it must be a capital and up to 23 capitals, digits, dots, - or _"
            )
        elif code in registered:
            plan.exponents[code] = _checked(code, registered[code], use, "is registered")
        elif code in wanted:
            plan.exponents[code] = plan.unregistered[code] = _checked(code, wanted[code], use, "is asked for")
        elif use.decimals_needed > EXPONENT_MAX:
            plan.impossible[code] = f"is used with {use.decimals_needed} decimals; a unit has at most {EXPONENT_MAX}"
        else:
            plan.exponents[code] = plan.unregistered[code] = min(use.decimals_written, EXPONENT_MAX)
    return plan


def _checked(code: str, exponent: int, use: _Use, how: str) -> int:
    if use.decimals_needed > exponent:
        raise ImportingError(
            f"The unit {code} {how} with {exponent} decimals, but {use.place} uses {use.decimals_needed}: "
            "an exponent never changes, so round the source or rename the unit."
        )
    return exponent


def _uses(drafts: Iterable[Draft]) -> dict[str, _Use]:
    """How finely each commodity is written; weighed amounts are rounded, so their decimals do not count."""
    uses: dict[str, _Use] = {}
    for draft in drafts:
        for leg in draft.legs:
            counts = leg.origin is LegOrigin.WRITTEN
            written = decimals_of(leg.amount) if counts else 0
            needed = _decimals_needed(leg.amount) if counts else 0
            use = uses.get(leg.currency, _Use(0, 0, draft.place))
            place = draft.place if needed > use.decimals_needed else use.place
            uses[leg.currency] = _Use(max(written, use.decimals_written), max(needed, use.decimals_needed), place)
    return uses
