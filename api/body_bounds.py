"""Bounds on request bodies, checked before a body is parsed or a model is built.

A parser makes an object for each value, and a model makes an error for each wrong member. Both cost a thousand times
what the bytes cost their sender. So parts are counted in the raw bytes before parsing, and members in the parsed value
before a model sees it.
"""

from typing import Any, Final

from api.problems import Kind, Problem, get_problem_kind
from domain.intents import LEGS_MAX, METADATA_ENTRIES_MAX
from domain.outcomes import Reason

INTENT_PARTS_MAX: Final = 60_000
"""More than a valid intent can have: 1,000 legs of 5 parts, and 52,000 characters of text that are all commas."""
BATCH_PARTS_MAX: Final = 300_000
"""More parts than the legs have that fit into a batch of 4,000,000 bytes."""
BATCH_LINES_MAX: Final = 10_000
"""Most lines of NDJSON. Blank lines count, though they are not items."""
MEMBERS_MAX: Final = 16
"""Most members of an object whose names we define: an intent has up to 7 members, a leg has 4."""
ODD_LEGS_SHOWN_MAX: Final = 3
"""After this many legs that are not valid, the rest is not checked: their errors would repeat the first ones."""
BATCH_FAULTS_SHOWN_MAX: Final = 200
"""Once a batch has listed this many errors, each further item lists only one."""

_CHUNK_BYTES: Final = 65_536


def has_more_parts_than(raw: bytes, parts_max: int) -> bool:
    """Return whether a JSON text has more than `parts_max` parts, which are commas and opening brackets.

    A text has at most one value more than parts. Commas and brackets inside strings count too: to tell them apart would
    cost more than to parse. The count stops once the answer is known. A text of at most `parts_max` bytes needs none.
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
    """Raise Problem if the text has more than `parts_max` parts."""
    if has_more_parts_than(raw, parts_max):
        raise Problem(
            Kind.BODY_TOO_COMPLEX,
            f"The body must have at most {parts_max} commas and opening brackets: send fewer legs or items at once.",
            parts_max=parts_max,
        )


def require_few_lines(raw: bytes) -> None:
    """Raise Problem if NDJSON has more than BATCH_LINES_MAX lines."""
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
    """Raise Problem if a parsed intent has more members, legs or metadata entries than a model should check.

    Too many legs or metadata entries are answered as domain.screening does, so as the posting worker does.
    """
    if type(value) is not dict:
        return
    _require_few_members(value, "The intent")
    legs, metadata = value.get("legs"), value.get("metadata")
    if type(metadata) is dict and len(metadata) > METADATA_ENTRIES_MAX:
        reason = Reason.MALFORMED
        detail = f"There are more than {METADATA_ENTRIES_MAX} metadata entries."
        raise Problem(get_problem_kind(reason), detail, reason=reason.value)
    if type(legs) is not list:
        return
    if len(legs) > LEGS_MAX:
        reason = Reason.TOO_MANY_LEGS
        raise Problem(
            get_problem_kind(reason), f"There are {len(legs)} legs; the limit is {LEGS_MAX}.", reason=reason.value
        )
    for leg in legs:
        if type(leg) is dict:
            _require_few_members(leg, "A leg")
