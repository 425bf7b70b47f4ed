"""The fingerprint of an intent: two requests have the same fingerprint exactly if they ask for the same."""

from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from domain.intents import DIRECTION_NAMES, Leg


def make_legs_json(legs: tuple[Leg, ...]) -> list[dict[str, str]]:
    """Return the legs for canonical JSON.

    Amounts are decimal strings, because JSON's numbers are exact only up to 2^53 (RFC 8785, 3.2.2.3).
    """
    return [
        {
            "account": account,
            "amount_minor": str(amount_minor),
            "currency": currency,
            "direction": DIRECTION_NAMES[direction],
        }
        for account, direction, amount_minor, currency in legs
    ]


def make_canonical_json(value: dict[str, Any]) -> bytes:
    """Return the RFC 8785 canonical JSON of a value with ASCII keys; UUIDs become their text, enumerations their value.

    orjson with sorted keys writes canonical JSON if all keys are ASCII, no number is a float and no integer is above
    2^53. A property test compares the output with that of the rfc8785 package.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sort_keys(metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata with its keys in canonical order, for callers that write their own members in order already.

    RFC 8785 (3.2.3) sorts keys by their UTF-16 code units. For ASCII that is the order of the text itself. An intent
    that did not come through the API may have any keys: it is rejected as malformed, but needs the right fingerprint.
    """
    if len(metadata) < 2:
        return metadata
    if "".join(metadata).isascii():
        return dict(sorted(metadata.items()))
    return dict(sorted(metadata.items(), key=_encode_utf_16))


def _encode_utf_16(entry: tuple[str, str]) -> bytes:
    """Return the entry's key in big-endian UTF-16, whose bytes sort as the code units do."""
    return entry[0].encode("utf-16-be")


def compute_fingerprint(
    intent_type: str,
    legs: tuple[Leg, ...],
    reverses: UUID | None,
    value_time: int | None,
    reference: str | None,
    metadata: dict[str, str],
) -> bytes:
    """Return the SHA-256 (32 bytes) of what is asked, without the idempotency key and the time of acceptance.

    The order of legs counts. `value_time` is microseconds since 1970, or None if the client left it out.
    """
    asked = {
        "legs": make_legs_json(legs),
        "metadata": sort_keys(metadata),
        "reference": reference,
        "reverses": reverses,
        "type": intent_type,
        "value_time": value_time,
    }
    return sha256(orjson.dumps(asked)).digest()
