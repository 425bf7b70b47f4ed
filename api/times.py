"""RFC 3339 text and microseconds since 1970 UTC."""

import re
from datetime import datetime, timedelta
from typing import Final

from domain.times import EPOCH, format_rfc3339

_MICROSECOND: Final = timedelta(microseconds=1)
PATTERN: Final = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})$"
_EXPRESSION: Final = re.compile(PATTERN.rstrip("$") + r"\Z", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NO_ZONE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?", re.ASCII)
_SPACE_FOR_PLUS: Final = re.compile(_NO_ZONE.pattern + r" \d{2}:\d{2}", re.ASCII)
_EXAMPLE: Final = "2026-01-31T12:00:00Z"
_CHARACTERS_SHOWN_MAX: Final = 60


def from_rfc3339(text: str) -> int:
    """Return the microseconds since 1970 UTC of a date-time with an offset (RFC 3339, 5.6).

    Raise ValueError for anything else, for a leap second, and for more than six decimals, which fromisoformat drops.
    """
    if not _EXPRESSION.match(text):
        raise ValueError("not an RFC 3339 date-time with at most six decimals and an offset")
    moment = datetime.fromisoformat(text.upper())
    return (moment - EPOCH) // _MICROSECOND


def explain(text: str) -> str:
    """Say in plain words, with an example, why a text is not a date-time; the result follows the parameter's name.

    A date alone is refused, because a day begins at a different moment in each zone.
    """
    shown = repr(text[:_CHARACTERS_SHOWN_MAX])
    if _DATE.fullmatch(text):
        return f"is a time with a zone: for the beginning of that day in UTC write {text}T00:00:00Z"
    if _SPACE_FOR_PLUS.fullmatch(text):
        return f"has a space before its zone: in an address + is written %2B; or use UTC, such as {_EXAMPLE}"
    if _NO_ZONE.fullmatch(text):
        return f"has no zone: write {text.replace(' ', 'T')}Z for UTC, or end it with an offset such as +01:00"
    if _EXPRESSION.match(text):
        return f"is no moment that there is: {shown}; a time is written such as {_EXAMPLE}"
    return f"is a time with a zone, such as {_EXAMPLE} or 2026-01-31T13:00:00+01:00, and not {shown}"


def to_optional_rfc3339(microseconds: int | None) -> str | None:
    """Return the time as RFC 3339 text in UTC; None for None."""
    return None if microseconds is None else format_rfc3339(microseconds)


def to_utc_text(moment: datetime) -> str:
    """Return a time in UTC as RFC 3339 text, with a fraction only if it has one."""
    return moment.isoformat().replace("+00:00", "Z")
