"""Time zones by their names in the IANA database."""

from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

ZONE_CHARACTERS_MAX = 64


@lru_cache(maxsize=1024)
def find_zone(name: str) -> ZoneInfo | None:
    """Return the zone with this name, such as Europe/Berlin; None if there is none."""
    if not 0 < len(name) <= ZONE_CHARACTERS_MAX:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError
        return None
