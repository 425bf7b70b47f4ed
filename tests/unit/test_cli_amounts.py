"""Amounts on a command line: which forms are accepted, and the sentence for each common mistake."""

import pytest

from cli.amounts import WrittenAmountError, parse_minor

TAKEN = [("12.50", "EUR", 1250), ("12.5", "EUR", 1250), ("0.01", "EUR", 1), ("12", "JPY", 12), ("007.10", "EUR", 710)]

REFUSED = [
    ("12,50", "EUR", "12,50 has a decimal comma: write it with a point, 12.50."),
    ("12,5", "EUR", "12,5 has a decimal comma: write it with a point, 12.5."),
    ("1,000", "EUR", "1,000 can be read in two ways: write 1000, or 1.000."),
    ("1,000.50", "EUR", "1,000.50 sets its thousands apart: write 1000.50."),
    ("1.000,50", "EUR", "1.000,50 sets its thousands apart: write 1000.50."),
    ("1.000.000", "EUR", "1.000.000 sets its thousands apart: write 1000000."),
    ("1_000", "EUR", "1_000 sets its thousands apart: write 1000."),
    ("1 000", "EUR", "1 000 sets its thousands apart: write 1000."),
    ("1'000", "EUR", "1'000 sets its thousands apart: write 1000."),
    ("1.000", "EUR", "1.000 has 3 decimals, and EUR has at most 2: round it yourself."),
    ("12.505", "EUR", "12.505 has 3 decimals, and EUR has at most 2: round it yourself."),
    ("12.50", "JPY", "12.50 has 2 decimals, and JPY has none: round it yourself."),
    ("1e2", "EUR", "1e2 has an exponent: write the amount out in digits, such as 100 in place of 1e2."),
    ("٣", "EUR", "٣ is not in the digits 0 to 9: write 3."),
    ("१२.५०", "EUR", "१२.५० is not in the digits 0 to 9: write 12.50."),
    ("€12", "EUR", "€12 names its currency: write --amount 12 --currency EUR."),
    ("12 €", "USD", "12 € names its currency: write --amount 12 --currency EUR."),
    ("12,50€", "EUR", "12,50€ names its currency: write --amount 12.50 --currency EUR."),
    ("$12", "EUR", "$12 names its currency: write --amount 12, and its code by --currency, such as USD."),
    ("12USD", "EUR", "12USD names its currency: write --amount 12 --currency USD."),
    ("usd 12", "EUR", "usd 12 names its currency: write --amount 12 --currency USD."),
    ("NaN", "EUR", "NaN is not a number: write the amount in digits, such as 12.50."),
    ("-inf", "EUR", "-inf is not a number: write the amount in digits, such as 12.50."),
    ("-12", "EUR", "-12 is negative: write 12, and change --debit and --credit over."),
    ("+12", "EUR", "Write +12 without the sign: 12."),
    ("0.00", "EUR", "The amount is 0: there is nothing to move."),
    (" 12", "EUR", "The amount ' 12' has space around it: take it away."),
    ("12.50\n", "EUR", "The amount '12.50\\n' has space around it: take it away."),
    ("twelve", "EUR", "twelve is no amount: write digits and a decimal point, such as 12.50."),
    ("12.", "EUR", "12. is no amount: write digits and a decimal point, such as 12.50."),
    ("", "EUR", " is no amount: write digits and a decimal point, such as 12.50."),
    ("9" * 30, "EUR", f"{'9' * 30} EUR is more than an amount can be."),
    ("9" * 5000, "EUR", f"{'9' * 40}... EUR is more than an amount can be."),
    ("12", "eur", "'eur' is no currency: write it in capitals, --currency EUR."),
    (
        "12",
        "MILES",
        "'MILES' is no ISO 4217 currency: for a registered unit give --amount-minor, a whole number of its",
    ),
]


@pytest.mark.parametrize(("text", "currency", "minor"), TAKEN)
def test_a_plain_decimal_is_taken(text: str, currency: str, minor: int) -> None:
    assert parse_minor(text, currency) == minor


@pytest.mark.parametrize(("text", "currency", "told"), REFUSED, ids=[ascii(case[0][:20]) for case in REFUSED])
def test_a_mistake_is_told_how_to_mend_it(text: str, currency: str, told: str) -> None:
    with pytest.raises(WrittenAmountError) as refused:
        parse_minor(text, currency)
    assert str(refused.value).startswith(told)
