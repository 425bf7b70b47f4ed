"""Find the name that a caller meant if a query or a body has an unknown one."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

_LIKENESS_MIN: Final = 0.6


def find_nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most like `name` in lower case; None if none is like it.

    The caller bounds the length of `name`: the comparison takes longer for a long one.
    """
    found = get_close_matches(name.lower(), known, 1, _LIKENESS_MIN)
    return found[0] if found else None
