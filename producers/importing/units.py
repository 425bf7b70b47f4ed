"""Find each commodity's exponent: ISO 4217's, the registered one, the user's, or one inferred from its amounts."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from domain.intents import AMOUNT_MINOR_MAX, CURRENCY_PATTERN
from domain.money import AMOUNT_DIGITS_MAX, EXPONENT_MAX, find_minor_unit_fault, find_room_fault, get_iso_exponent
from producers.importing.model import Draft, ImportingError, LegOrigin, Place

_ROOM_DIGITS: Final = 3


class UnitPlan(NamedTuple):
    """The exponents that the conversion of drafts to minor units needs."""

    exponents: dict[str, int]
    """The exponent of every commodity that has one."""
    unregistered: dict[str, int]
    """The exponents that the books do not have yet. They must be registered before anything is posted."""
    impossible: dict[str, str]
    """Commodities that cannot become units, and why: a clause whose subject is the code."""


class _Use(NamedTuple):
    decimals_written: int
    """With trailing zeros, as in 5.00: they show how many decimals people use for the unit."""
    decimals_needed: int
    """Without trailing zeros."""
    place: Place
    """The line that needs the most decimals."""
    amount_max: Decimal
    """The largest amount without its sign."""
    is_written: bool
    """Whether the source states any amount. If not, all were computed."""


def count_decimals(amount: Decimal) -> int:
    """Return the number of decimals with which an amount is written; 0 for whole numbers."""
    exponent = amount.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _count_decimals_needed(amount: Decimal) -> int:
    """Return the number of decimals without trailing zeros. Count digits, because arithmetic rounds a long amount."""
    digits = format(amount, "f").partition(".")[2].rstrip("0")
    return len(digits)


def plan_units(
    drafts: Iterable[Draft],
    registered: Mapping[str, int],
    wanted: Mapping[str, int] | None = None,
    *,
    round_written: bool = False,
) -> UnitPlan:
    """Find every commodity's exponent. `registered` has the units of the tenant's books, `wanted` those of the user.

    Raise ImportingError if a registered or wanted unit has fewer decimals than the source uses, unless `round_written`.
    A registered exponent cannot change, because every posted amount would change its meaning. Raise ImportingError also
    if a wanted unit has so many decimals that its amounts do not fit: it would be registered for ever, and useless.
    """
    wanted = wanted or {}
    plan = UnitPlan({}, {}, {})
    for code, use in sorted(_collect_uses(drafts).items()):
        exponent = get_iso_exponent(code)
        if exponent is not None:
            plan.exponents[code] = exponent
        elif not CURRENCY_PATTERN.fullmatch(code):
            plan.impossible[code] = (
                "is no code for a unit: it must be a capital and up to 23 capitals, digits, dots, - or _"
            )
        elif code in registered:
            plan.exponents[code] = _check(code, registered[code], use, "is registered", round_written=round_written)
        elif (fault := find_minor_unit_fault(code)) is not None:
            plan.impossible[code] = fault.removesuffix(".")
        elif code in wanted:
            _require_room(code, wanted[code], use)
            exponent = _check(code, wanted[code], use, "is asked for", round_written=round_written)
            plan.exponents[code] = plan.unregistered[code] = exponent
        else:
            inferred = _infer_exponent(use, round_written=round_written)
            if isinstance(inferred, str):
                plan.impossible[code] = inferred
            else:
                plan.exponents[code] = plan.unregistered[code] = inferred
    return plan


def _infer_exponent(use: _Use, *, round_written: bool) -> int | str:
    """Return as many decimals as the source writes and 64 bits hold, or a clause that says why none fit."""
    if use.amount_max > AMOUNT_MINOR_MAX:
        return f"is used with amounts up to {format(use.amount_max, 'f')}: 64 bits do not hold them with any decimals"
    largest = _count_decimals_that_fit(use.amount_max)
    # Later amounts may be larger: a reduced exponent leaves room, but keeps every decimal that the source needs.
    roomy = max(0, largest - _ROOM_DIGITS)
    if use.decimals_needed <= largest:
        return min(use.decimals_written, max(roomy, use.decimals_needed))
    if round_written:
        return roomy
    return (
        f"is used with {use.decimals_needed} decimals and amounts up to {format(use.amount_max, 'f')}: at most "
        f"{largest} decimals fit in 64 bits (--round books it rounded)"
    )


def _count_decimals_that_fit(amount: Decimal) -> int:
    """Return the most decimals, up to EXPONENT_MAX, with which an amount fits in 64 bits of minor units."""
    for decimals in range(EXPONENT_MAX, 0, -1):
        if amount == 0 or amount.adjusted() + decimals <= AMOUNT_DIGITS_MAX - 1:
            return decimals
    return 0


def _require_room(code: str, exponent: int, use: _Use) -> None:
    if exponent > EXPONENT_MAX:
        raise ImportingError(f"The unit {code} is asked for with {exponent} decimals; the most is {EXPONENT_MAX}.")
    fault = find_room_fault(code, exponent, use.amount_max)
    if fault is not None:
        raise ImportingError(f"The unit {code} cannot be registered so. {fault}")


def _check(code: str, exponent: int, use: _Use, how: str, *, round_written: bool) -> int:
    if use.decimals_needed > exponent and not round_written:
        raise ImportingError(
            f"The unit {code} {how} with {exponent} decimals, but {use.place} uses {use.decimals_needed}: "
            "an exponent never changes, so book it rounded by --round, or rename the unit."
        )
    return exponent


def _collect_uses(drafts: Iterable[Draft]) -> dict[str, _Use]:
    """Return how many decimals each commodity uses, and its largest amount.

    Computed amounts are rounded, so their decimals do not count, unless no amount of the commodity is written.
    """
    uses: dict[str, _Use] = {}
    for draft in drafts:
        for leg in draft.legs:
            use = uses.get(leg.currency, _Use(0, 0, draft.place, Decimal(0), is_written=False))
            is_written = leg.origin is LegOrigin.WRITTEN
            if is_written and not use.is_written:
                use = use._replace(decimals_written=0, decimals_needed=0, place=draft.place, is_written=True)
            counts = is_written or not use.is_written
            written = count_decimals(leg.amount) if counts else 0
            needed = _count_decimals_needed(leg.amount) if is_written else 0
            uses[leg.currency] = use._replace(
                decimals_written=max(written, use.decimals_written),
                decimals_needed=max(needed, use.decimals_needed),
                place=draft.place if needed > use.decimals_needed else use.place,
                amount_max=max(abs(leg.amount), use.amount_max),
            )
    return uses
