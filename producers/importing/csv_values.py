"""Read the content of cells: amounts, currencies and times as banks write them. Pure."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from domain.money import get_iso_exponent
from producers.importing.csv_mapping import AmountFormat, Currency, DateFormat
from producers.importing.model import ImportingError


class UnmappableError(ValueError):
    """A row cannot become a draft. The message says why in one sentence."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPACES: Final = re.compile(r"[\s\u00a0\u2007\u2009\u202f]+")
_SAME_SIGNS: Final = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2012": "-", "\u2019": "'", "\u2018": "'", "\u02bc": "'"}
)
_CURRENCY: Final = r"(?!(?:CR|DR)\b)(?:[^\W\d_]{1,4}\.?|[A-Z]{0,3}[^\w\s.,'()+-])"
_WRITTEN: Final = re.compile(
    rf"(?P<sign1>[+-])? ?(?P<currency1>{_CURRENCY})? ?(?P<sign2>[+-])? ?(?P<number>[0-9.,' ]*[0-9][0-9.,' ]*?)"
    rf" ?(?P<sign3>[+-])? ?(?P<currency2>{_CURRENCY})? ?(?P<side>CR|DR)?\.? ?(?P<sign4>[+-])?",
    re.IGNORECASE,
)
# Signs that stand for exactly one currency; $, kr and \u00a5 stand for several.
_SIGNS: Final = {
    "\u20ac": "EUR",
    "\u00a3": "GBP",
    "\u20b9": "INR",
    "\u20ba": "TRY",
    "\u20bd": "RUB",
    "\u20a9": "KRW",
    "\u20aa": "ILS",
    "\u0e3f": "THB",
    "US$": "USD",
    "z\u0142": "PLN",
    "K\u010d": "CZK",
}
_ENGLISH: Final = {
    "%B": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "%b": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}


class WrittenAmount(NamedTuple):
    """An amount as a cell has it."""

    number: Decimal
    currency: str | None
    """The code or sign beside the number, as written."""


def read_amount(text: str, style: AmountFormat) -> WrittenAmount:
    """Read an amount with its sign, before or after the number, and the currency beside it.

    A group must have three digits, or two before a last group of three, as in India. Otherwise 1,23 would be read as
    123. Raise UnmappableError if the text is no such amount.
    """
    plain = _SPACES.sub(" ", text.translate(_SAME_SIGNS)).strip()
    in_parentheses = style.parentheses_negative and plain.startswith("(") and plain.endswith(")")
    found = _WRITTEN.fullmatch(plain[1:-1].strip() if in_parentheses else plain)
    refusal = UnmappableError(
        f"The amount {text!r} is no decimal with {style.decimal!r} and groups by {style.grouping!r}."
    )
    if found is None:
        raise refusal
    signs = [sign for name in ("sign1", "sign2", "sign3", "sign4") if (sign := found[name])]
    sides = [found["side"].upper()] if found["side"] else []
    currencies = [currency for name in ("currency1", "currency2") if (currency := found[name])]
    if len(signs) + in_parentheses + len(sides) > 1 or len(currencies) > 1:
        raise refusal
    number = _read_number(found["number"].strip(), style)
    if number is None:
        raise refusal
    negative = in_parentheses or "-" in signs or "DR" in sides
    return WrittenAmount(-number if negative else number, currencies[0] if currencies else None)


def _read_number(digits: str, style: AmountFormat) -> Decimal | None:
    grouping = _SPACES.sub(" ", style.grouping.translate(_SAME_SIGNS))
    group, point = re.escape(grouping), re.escape(style.decimal)
    whole = r"[0-9]+"
    if grouping:
        whole = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]{{1,2}}(?:{group}[0-9]{{2}})*{group}[0-9]{{3}}|[0-9]+)"
    if not re.fullmatch(rf"(?:{whole})?(?:{point}[0-9]+)?", digits):
        return None
    return Decimal((digits.replace(grouping, "") if grouping else digits).replace(style.decimal, "."))


def read_currency(column_text: str | None, written: str | None, style: Currency) -> str:
    """Return the code of a row's currency from its column, its amount or the mapping.

    Raise UnmappableError if none of them names a currency, or if two of them differ.
    """
    codes = [style.code] if style.code is not None else []
    codes += [_find_code(text, style.names) for text in (column_text, written) if text]
    if not codes:
        where = f"The column {style.column!r} is empty" if style.column else "The amount names no currency"
        raise UnmappableError(f"{where}: a currency is needed.")
    if len(set(codes)) > 1:
        raise UnmappableError(f"The amount is in {codes[-1]}, but the row is in {codes[0]}.")
    return codes[0]


def _find_code(text: str, names: dict[str, str]) -> str:
    if text in names:
        return names[text]
    if text in _SIGNS:
        return _SIGNS[text]
    if get_iso_exponent(text.upper()) is not None:
        return text.upper()
    if not re.fullmatch("[A-Za-z0-9._-]+", text) or text.lower().rstrip(".") in {"kr", "rs"}:
        raise UnmappableError(
            f'The sign {text!r} may stand for several currencies: name it in currency.names, such as "{text}" = "USD".'
        )
    return text.upper()


class Moment(NamedTuple):
    """The date and time of a row."""

    written: str
    """Date and time as the file has them, without a zone, in ISO 8601."""
    value_time: int
    """Microseconds since 1970-01-01 UTC."""


def read_moment(date_text: str, time_text: str | None, style: DateFormat) -> Moment:
    """Read a date and, if there is one, a time; a date alone is midnight UTC."""
    for expected in style.list_formats():
        text = _translate_months(date_text, style.locale, expected)
        if time_text:
            text, expected = f"{text} {time_text}", f"{expected} {style.time_format}"  # noqa: PLW2901
        try:
            moment = datetime.strptime(text, expected)
        except ValueError:
            continue
        has_time = bool(re.search("%[HIcXsf]", expected))
        written = moment.replace(tzinfo=None).isoformat()
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(style.zone) if style.zone and has_time else UTC)
        return Moment(written, (moment - _EPOCH) // timedelta(microseconds=1))
    shown = f"{date_text} {time_text}" if time_text else date_text
    formats = " or ".join(style.list_formats()) + (f" with {style.time_format}" if time_text else "")
    raise UnmappableError(f"The date {shown!r} is not written as {formats}.")


def _translate_months(text: str, locale: str | None, expected: str) -> str:
    """Return the text with the month names of a locale in English, because strptime knows only those."""
    if locale is None:
        return text
    months = _list_month_numbers(locale)
    english = _ENGLISH["%B" if "%B" in expected else "%b"]

    def translate(match: re.Match[str]) -> str:
        number = months.get(match.group().rstrip(".").casefold())
        return match.group() if number is None else english[number - 1]

    return re.sub(r"[^\W\d_]+\.?", translate, text)


@cache
def _list_month_numbers(locale: str) -> dict[str, int]:
    """Return the month numbers by the names of a locale, long and short, in lower case and without a dot."""
    try:
        from babel import Locale, UnknownLocaleError  # noqa: PLC0415  only mappings with date.locale need it
    except ModuleNotFoundError as error:
        raise ImportingError(
            "Reading the names of months needs the package babel: run `pip install 'ledgerline[import]'`."
        ) from error
    try:
        found = Locale.parse(locale.replace("-", "_"))
    except (UnknownLocaleError, ValueError) as error:
        raise ImportingError(f"There is no locale {locale!r}: set date.locale to a language, such as de.") from error
    return {
        str(name).rstrip(".").casefold(): number
        for context in ("format", "stand-alone")
        for width in ("wide", "abbreviated")
        for number, name in found.months[context][width].items()
    }
