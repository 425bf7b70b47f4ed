"""Bounds on request bodies, held before a body is parsed or a model is built.

A parser makes an object of each value, and a model makes a fault of each member that is wrong. Both cost a thousand
times what the bytes cost their sender. So the parts are counted on the bytes, and the members on the parsed value.
"""

from typing import Any, Final

from api.problems import Kind, Problem, kind_of
from domain.intents import LEGS_MAX, METADATA_ENTRIES_MAX
from domain.outcomes import Reason

INTENT_PARTS_MAX: Final = 60_000
"""More than any intent within the limits has: 1,000 legs of 5 parts, and 52,000 characters of text, all commas."""
BATCH_PARTS_MAX: Final = 300_000
"""More than the legs that fit into a batch of 4,000,000 bytes have."""
BATCH_LINES_MAX: Final = 10_000
"""Of NDJSON, with the blank ones, which are no items."""
MEMBERS_MAX: Final = 16
"""Of an object that has its names from us: an intent has 7 members, a leg has 4."""
ODD_LEGS_SHOWN_MAX: Final = 3
"""The legs after this many that are not legs are not looked at: their faults would say the same again."""
BATCH_FAULTS_SHOWN_MAX: Final = 200
"""Once a batch has shown so many faults, each further item shows one."""

_CHUNK_BYTES: Final = 65_536


def has_more_parts_than(raw: bytes, parts_max: int) -> bool:
    """Whether a JSON text has more than `parts_max` parts, which are commas and opening brackets.

    A text has at most one value more than it has parts. Those inside strings count too: to tell them apart would cost
    more than to parse. The count ends as soon as the answer is known, and a text with fewer bytes is not looked at.
    """
    if len(raw) <= parts_max:
        return False
    parts = 0
    for begin in range(0, len(raw), _CHUNK_BYTES):
        end = begin + _CHUNK_BYTES
        parts += raw.count(b",", begin, end) + raw.count(b"{", begin, end) + raw.count(b"[", begin, end)
        if parts > parts_max:
            return True
    return False


def require_few_parts(raw: bytes, parts_max: int) -> None:
    """Problem if the text has more parts than that."""
    if has_more_parts_than(raw, parts_max):
        raise Problem(
            Kind.BODY_TOO_COMPLEX,
            f"The body must have at most {parts_max} commas and opening brackets: send fewer legs or items at once.",
            parts_max=parts_max,
        )


def require_few_lines(raw: bytes) -> None:
    """Problem if NDJSON has more lines than are looked through for items."""
    if raw.count(b"\n") > BATCH_LINES_MAX:
        raise Problem(
            Kind.BODY_TOO_COMPLEX,
            f"The body must have at most {BATCH_LINES_MAX} lines, blank ones included.",
            lines_max=BATCH_LINES_MAX,
        )


def _require_few_members(value: dict[str, Any], what: str) -> None:
    if len(value) > MEMBERS_MAX:
        raise Problem(
            Kind.BODY_TOO_COMPLEX,
            f"{what} has {len(value)} members; it must have at most {MEMBERS_MAX}.",
            members_max=MEMBERS_MAX,
        )


def require_small(value: Any) -> None:
    """Problem if a parsed intent has more members, legs or metadata than a model should look at.

    The answers to too many legs or metadata are those of domain.screening, which the posting worker gives as well.
    """
    if type(value) is not dict:
        return
    _require_few_members(value, "The intent")
    legs, metadata = value.get("legs"), value.get("metadata")
    if type(metadata) is dict and len(metadata) > METADATA_ENTRIES_MAX:
        reason = Reason.MALFORMED
        detail = f"There are more than {METADATA_ENTRIES_MAX} metadata entries."
        raise Problem(kind_of(reason), detail, reason=reason.value)
    if type(legs) is not list:
        return
    if len(legs) > LEGS_MAX:
        reason = Reason.TOO_MANY_LEGS
        raise Problem(kind_of(reason), f"There are {len(legs)} legs; the limit is {LEGS_MAX}.", reason=reason.value)
    for leg in legs:
        if type(leg) is dict:
            _require_few_members(leg, "A leg")
