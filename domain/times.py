"""Times as text."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def format_rfc3339(microseconds: int) -> str:
    """Return a time in microseconds since 1970 as RFC 3339 in UTC, with all six digits of the microseconds."""
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> int:
    """Return the time as microseconds since 1970; raise ValueError if the text is no time with an offset."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"the time has no offset from UTC: {text!r}")
    return (time - EPOCH) // timedelta(microseconds=1)
