"""One sentence about each part of a body that does not have the documented form.

A reader of pydantic's own messages must know its types. The commonest mistakes of newcomers get better sentences here.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from api.nearest import find_nearest

_NAME_CHARACTERS_MAX: Final = 40

_MEANT: Final = {"amount": "amount_minor", "value": "amount_minor", "side": "direction", "address": "account"}
"""Wrong name -> the member of a leg that is usually meant, for names too different to be found by their letters."""

_SENTENCES: Final = {
    ("amount_minor", "int_type"): ("It is a whole number of minor units without quotes, such as 1250 for 12.50 EUR."),
    ("amount_minor", "int_from_float"): (
        "It is a whole number of minor units without a decimal point, such as 1250 for 12.50 EUR."
    ),
    ("direction", "literal_error"): 'It is "debit" or "credit", in small letters.',
    ("currency", "string_too_long"): "It is an ISO 4217 code such as EUR, or a registered unit.",
    ("currency", "string_too_short"): "It is empty: give an ISO 4217 code such as EUR, or a registered unit.",
    ("account", "string_too_short"): "It is empty: give an address such as users:42:wallet.",
    ("reverses", "string_pattern_mismatch"): "It is the id of an intent: 32 hexadecimal digits in five groups.",
}


def make_form_sentence(fault: Mapping[str, Any], members: Collection[str]) -> str:
    """Return the sentence for one of pydantic's errors; `members` are those that the object around it may have."""
    kind, place = str(fault["type"]), fault["loc"]
    name = str(place[-1]) if place else ""
    if kind == "extra_forbidden":
        return _make_unknown_sentence(name, members)
    if kind == "missing":
        return "It is missing."
    told = _SENTENCES.get((name, kind)) or str(fault["msg"])
    return told if told.endswith((".", "?")) else f"{told}."


def _make_unknown_sentence(name: str, members: Collection[str]) -> str:
    meant = _MEANT.get(name)
    if meant not in members:
        meant = find_nearest(name[:_NAME_CHARACTERS_MAX], members)
    if meant is not None:
        return f"There is no such member: {meant} is meant?"
    return f"There is no such member; there are {', '.join(members)}."
