"""Amounts of money as people write them on a command line, and one sentence for each kind of mistake."""

import re
import unicodedata
from decimal import Decimal
from typing import Final

from domain.errors import LedgerlineError
from domain.money import AmountError, get_iso_exponent, to_minor

_PLAIN: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_EXPONENT: Final = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+", re.ASCII)
_DECIMAL_COMMA: Final = re.compile(r"([0-9]+),([0-9]{1,2}|[0-9]{4,})", re.ASCII)
_GROUPED: Final = re.compile(r"[0-9]{1,3}(?:([,.'’ \u00a0\u202f_])[0-9]{2,3})+(?:[.,][0-9]+)?", re.ASCII)
_NO_NUMBERS: Final = frozenset({"nan", "inf", "infinity", "snan"})
_SIGNS: Final = {"€": "EUR", "£": "GBP", "₹": "INR"}
"""Only signs of exactly one currency: there are many dollars, and two currencies use ¥."""
_SHOWN_CHARACTERS_MAX: Final = 40


class WrittenAmountError(LedgerlineError):
    """An amount or a currency is not written as the ledger takes it; the message says how to write it."""


def parse_minor(text: str, currency: str) -> int:
    """Return the minor units of a decimal such as 12.50; raise WrittenAmountError that says what is wrong with it."""
    exponent = get_currency_exponent(currency)
    fault = find_amount_fault(text, currency, exponent)
    if fault is not None:
        raise WrittenAmountError(fault)
    try:
        minor = to_minor(Decimal(text), exponent)
    except AmountError as error:
        raise WrittenAmountError(f"{_cut(text)} {currency} is more than an amount can be.") from error
    if minor == 0:
        raise WrittenAmountError("The amount is 0: there is nothing to move.")
    return minor


def get_currency_exponent(currency: str) -> int:
    """Return the number of decimals of an ISO 4217 currency; raise WrittenAmountError for another code."""
    exponent = get_iso_exponent(currency)
    if exponent is not None:
        return exponent
    capitals = currency.strip().upper()
    if capitals != currency and get_iso_exponent(capitals) is not None:
        raise WrittenAmountError(f"{currency!r} is no currency: write it in capitals, --currency {capitals}.")
    raise WrittenAmountError(
        f"{currency!r} is no ISO 4217 currency: for a registered unit give --amount-minor, a whole number of its minor"
        " units."
    )


def find_amount_fault(text: str, currency: str, exponent: int) -> str | None:
    """Return what is wrong with a written amount and how to write it, or None; `exponent` is the currency's decimals.

    A number that could mean two amounts is never guessed.
    """
    written = _cut(text)
    if _PLAIN.fullmatch(text):
        return _find_decimals_fault(text, currency, exponent)
    if text != text.strip():
        return f"The amount {text!r} has space around it: take it away."
    if text.startswith("-") and _PLAIN.fullmatch(text[1:]):
        return f"{written} is negative: write {text[1:]}, and change --debit and --credit over."
    if text.startswith("+") and _PLAIN.fullmatch(text[1:]):
        return f"Write {written} without the sign: {text[1:]}."
    if text.lstrip("+-").lower() in _NO_NUMBERS:
        return f"{written} is not a number: write the amount in digits, such as 12.50."
    if _EXPONENT.fullmatch(text):
        return f"{written} has an exponent: write the amount out in digits, such as 100 in place of 1e2."
    comma = _DECIMAL_COMMA.fullmatch(text)
    if comma:
        return f"{written} has a decimal comma: write it with a point, {comma[1]}.{comma[2]}."
    if _GROUPED.fullmatch(text):
        return _describe_grouping_fault(text)
    return _sign_fault(text) or f"{written} is no amount: write digits and a decimal point, such as 12.50."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "..."


def _find_decimals_fault(text: str, currency: str, exponent: int) -> str | None:
    decimals = text.partition(".")[2]  # zeros count: people who write a decimal comma read 1.000 as a thousand
    if len(decimals) <= exponent:
        return None
    most = f"at most {exponent}" if exponent else "none"
    return f"{_cut(text)} has {len(decimals)} decimals, and {currency} has {most}: round it yourself."


def _describe_grouping_fault(text: str) -> str:
    """Return a sentence about thousands separators; `1,000` can mean 1 or 1000, so the sentence shows both."""
    digits = re.sub(r"[^0-9]", "", text)
    if re.fullmatch(r"[0-9]{1,3},[0-9]{3}", text, re.ASCII):
        whole, _, rest = text.partition(",")
        return f"{text} can be read in two ways: write {digits}, or {whole}.{rest}."
    last = max(text.rfind("."), text.rfind(","))
    sets_apart = {sign for sign in text if not sign.isdigit()}
    has_decimals = last >= 0 and len(sets_apart) > 1
    plain = f"{re.sub(r'[^0-9]', '', text[:last])}.{text[last + 1 :]}" if has_decimals else digits
    return f"{_cut(text)} sets its thousands apart: write {_cut(plain)}."


def _sign_fault(text: str) -> str | None:
    """Return the fault of a currency beside the number, or of digits of another script; None if there is neither."""
    if any(sign.isdecimal() and not sign.isascii() for sign in text):
        plain = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)
        return f"{_cut(text)} is not in the digits 0 to 9: write {_cut(plain)}."
    number = re.sub(r"[^0-9.,]", "", text)
    beside = re.sub(r"[0-9.,\s]", "", text)
    if number and beside and all(unicodedata.category(sign) in {"Sc", "Lu", "Ll"} for sign in beside):
        plain = number.replace(",", ".") if _DECIMAL_COMMA.fullmatch(number) else number
        code = _SIGNS.get(beside, beside.upper())
        if get_iso_exponent(code) is None:
            return f"{_cut(text)} names its currency: write --amount {plain}, and its code by --currency, such as USD."
        return f"{_cut(text)} names its currency: write --amount {plain} --currency {code}."
    return None
