"""Currencies and units: which codes exist, and how many digits of each are minor units."""

from decimal import Context, Decimal
from typing import Final

from iso4217 import Currency

from domain.intents import AMOUNT_MINOR_MAX

EXPONENT_MAX: Final = 18
AMOUNT_DIGITS_MAX: Final = 18  # besides the first: 2^63 - 1 has 19 digits
_EXACT: Final = Context(prec=1000)  # the default context would round a sum of more than 28 digits

UNITS_CARRIED_MIN: Final = 1_000_000
"""`units add` asks for --largest if one leg of the unit carries less than this."""
_ISO_EXPONENTS: Final[dict[str, int]] = {
    currency.code: currency.exponent for currency in Currency if currency.exponent is not None
}
_ISO_WITHOUT_MINOR_UNIT: Final[dict[str, str]] = {
    currency.code: currency.currency_name for currency in Currency if currency.exponent is None
}


class AmountError(ValueError):
    """A decimal that has no exact count of minor units; the message says why."""


def get_iso_exponent(code: str) -> int | None:
    """Return the number of minor-unit digits of an ISO 4217 code, such as 2 for EUR; None if ISO defines none."""
    return _ISO_EXPONENTS.get(code)


def find_minor_unit_fault(code: str) -> str | None:
    """Return why an ISO 4217 code without a minor unit, such as XAU, cannot be used; None for any other code.

    The text continues a sentence that begins with the code.
    """
    name = _ISO_WITHOUT_MINOR_UNIT.get(code)
    if name is None:
        return None
    return f'stands for "{name}" in ISO 4217, which gives it no minor unit: use a unit of your own, such as X_{code}.'


def get_exponent(code: str, units: dict[str, int]) -> int | None:
    """Return the exponent of an ISO code or of one of the tenant's registered units; None if the code is neither."""
    exponent = get_iso_exponent(code)
    return units.get(code) if exponent is None else exponent


def to_minor(amount: Decimal, exponent: int) -> int:
    """Return the exact count of minor units of `amount`. Raise AmountError if it is not a whole number or overflows."""
    if not amount.is_finite():
        raise AmountError(f"{amount} is no amount")
    if amount and amount.adjusted() + exponent > AMOUNT_DIGITS_MAX:  # before int() writes out 1E+999999
        raise AmountError(f"{amount} does not fit in 64 bits of minor units")
    # The default context would round an amount of more than 28 digits, and the result would seem exact.
    scaled = amount.scaleb(exponent, Context(prec=len(amount.as_tuple().digits)))
    if scaled != scaled.to_integral_value():
        raise AmountError(f"{amount} has more than {exponent} decimal places")
    minor = int(scaled)
    if abs(minor) > AMOUNT_MINOR_MAX:
        raise AmountError(f"{amount} does not fit in 64 bits of minor units")
    return minor


def to_decimal(amount_minor: int, exponent: int) -> Decimal:
    """Return the decimal that people read, such as 12.50 for 1250 and exponent 2."""
    return Decimal(amount_minor).scaleb(-exponent, _EXACT)


def compute_largest_amount(exponent: int) -> Decimal:
    """Return the largest amount of a unit that one leg can carry."""
    return to_decimal(AMOUNT_MINOR_MAX, exponent)


def find_room_fault(code: str, exponent: int, largest: Decimal | None) -> str | None:
    """Return why a unit with this exponent is not fit for amounts up to `largest`; None if it is fit.

    If `largest` is None, the unit is fit if one leg can carry at least UNITS_CARRIED_MIN.
    """
    most = compute_largest_amount(exponent)
    carries = f"With {exponent} decimals one leg carries at most {most:f} {code}, and a unit's decimals never change."
    if largest is None:
        if most >= UNITS_CARRIED_MIN:
            return None
        return f"{carries} Choose fewer, or say with --largest how much must fit."
    return None if largest <= most else f"{carries} {largest:f} does not fit: choose fewer decimals."
