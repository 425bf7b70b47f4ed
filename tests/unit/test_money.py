"""Amounts become minor units exactly or are refused."""

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.intents import AMOUNT_MINOR_MAX
from domain.money import (
    EXPONENT_MAX,
    AmountError,
    find_minor_unit_fault,
    find_room_fault,
    get_exponent,
    get_iso_exponent,
    to_decimal,
    to_minor,
)


@pytest.mark.parametrize(
    ("code", "exponent"),
    [("EUR", 2), ("JPY", 0), ("BHD", 3), ("CLF", 4), ("XAU", None), ("XQX", None), ("eur", None), ("", None)],
)
def test_exponent_of_an_iso_code(code: str, exponent: int | None) -> None:
    assert get_iso_exponent(code) == exponent


@pytest.mark.parametrize(("code", "exponent"), [("EUR", 2), ("MILES", 0), ("SHARES", 6), ("XQX", None)])
def test_a_registered_unit_never_hides_an_iso_code(code: str, exponent: int | None) -> None:
    assert get_exponent(code, {"EUR": 9, "MILES": 0, "SHARES": 6}) == exponent


@pytest.mark.parametrize(
    ("amount", "exponent", "minor"),
    [
        ("12.50", 2, 1250),
        ("12.500", 2, 1250),
        ("-0.01", 2, -1),
        ("1E+2", 2, 10000),
        ("0", 18, 0),
        ("92233720368547758.07", 2, AMOUNT_MINOR_MAX),
        ("-92233720368547758.07", 2, -AMOUNT_MINOR_MAX),
        ("0.005", 2, "has more than 2 decimal places"),
        ("1.5", 0, "has more than 0 decimal places"),
        ("92233720368547758.08", 2, "does not fit in 64 bits"),
        ("1E+400", 2, "does not fit in 64 bits"),
        # Decimal's default context would round away some of these digits, but they must count.
        ("92233720368547758.070000000000000000000000000001", 2, "has more than 2 decimal places"),
        ("1.0000000000000000000000000000000001", 2, "has more than 2 decimal places"),
        ("1.0000000000000000000000000000000000", 2, 100),
        ("1E-400", 2, "has more than 2 decimal places"),
        ("NaN", 2, "is no amount"),
        ("sNaN", 2, "is no amount"),
        ("Infinity", 2, "is no amount"),
        ("-Infinity", 2, "is no amount"),
    ],
)
def test_to_minor(amount: str, exponent: int, minor: int | str) -> None:
    if isinstance(minor, str):
        with pytest.raises(AmountError, match=minor):
            to_minor(Decimal(amount), exponent)
    else:
        assert to_minor(Decimal(amount), exponent) == minor


@given(minor=st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX), exponent=st.integers(0, EXPONENT_MAX))
def test_minor_units_survive_the_way_through_decimals(minor: int, exponent: int) -> None:
    assert to_minor(to_decimal(minor, exponent), exponent) == minor


@given(amount=st.decimals(allow_nan=False, allow_infinity=False), exponent=st.integers(0, EXPONENT_MAX))
def test_what_is_accepted_is_exact(amount: Decimal, exponent: int) -> None:
    try:
        minor = to_minor(amount, exponent)
    except AmountError:
        return
    numerator, denominator = amount.as_integer_ratio()
    assert numerator * 10**exponent == minor * denominator


@pytest.mark.parametrize("code", ["XAU", "XAG", "XPT", "XPD", "XDR", "XTS", "X" * 3, "XBA", "XSU", "XUA"])
def test_a_code_without_a_minor_unit_is_refused_for_what_it_is(code: str) -> None:
    fault = find_minor_unit_fault(code)
    assert fault is not None
    assert fault.endswith(f"which gives it no minor unit: use a unit of your own, such as X_{code}.")


@pytest.mark.parametrize("code", ["EUR", "JPY", "XAF", "MILES", "XQX", "xau", ""])
def test_other_codes_have_no_such_fault(code: str) -> None:
    assert find_minor_unit_fault(code) is None


@pytest.mark.parametrize(
    ("exponent", "largest", "fits"),
    [
        (18, None, False),
        (18, "9.22", True),
        (18, "9.223372036854775807", True),
        (18, "9.223372036854775808", False),
        (13, None, False),
        (12, None, True),
        (12, "9223373", False),
        (0, None, True),
        (0, "9223372036854775808", False),
    ],
)
def test_a_unit_has_room_for_what_it_must_carry(exponent: int, largest: str | None, fits: bool) -> None:
    fault = find_room_fault("ETH", exponent, None if largest is None else Decimal(largest))
    assert (fault is None) == fits, fault


@pytest.mark.parametrize("minor", [10**40 + 1, -(10**40) - 1])
def test_a_sum_of_a_lifetime_is_shown_exactly(minor: int) -> None:
    assert int(to_decimal(minor, 2).scaleb(2, Context(prec=60))) == minor
