"""RFC 3339 text and microseconds since 1970 UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
PATTERN: Final = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})$"
_EXPRESSION: Final = re.compile(PATTERN.rstrip("$") + r"\Z", re.ASCII)


def from_rfc3339(text: str) -> int:
    """Microseconds since 1970 UTC of a date-time with an offset (RFC 3339, 5.6).

    ValueError for anything else, for a leap second, and for more than six decimals, which would be cut off silently.
    """
    if not _EXPRESSION.match(text):
        raise ValueError("not an RFC 3339 date-time with at most six decimals and an offset")
    moment = datetime.fromisoformat(text.upper())
    return (moment - _EPOCH) // _MICROSECOND


def to_rfc3339(microseconds: int) -> str:
    """Such as 2026-01-31T12:00:00.000000Z."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:-6] + "Z"
