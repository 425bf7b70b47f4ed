"""Read intents of the project's own schema from Avro at twice fastavro's speed: this runs for every message.

This module reads only what every encoder writes (Avro 1.11 specification, "Binary Encoding"). It refuses other bytes,
mostly as Unusual, and fastavro then judges them by the schema. So this module must return exactly what fastavro would
return, or refuse.
"""

from typing import Final
from uuid import UUID

from domain.intents import CREDIT, DEBIT, Intent, Leg

# In the order of the schema's symbols (avro/payments/payment_intent.avsc).
_TYPES: Final = {0: "unknown", 2: "transfer", 4: "reversal"}
_DIRECTIONS: Final = {0: 0, 2: DEBIT, 4: CREDIT}
_LONG_BITS: Final = 64


class Unusual(Exception):
    """The bytes are not what an encoder writes, but they may still be an intent."""


def _long(value: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag long, seven bits a byte, and the offset after it."""
    byte = value[at]
    at += 1
    number, shift = byte & 127, 7
    while byte > 127:
        byte = value[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
    if number >> _LONG_BITS:
        raise Unusual
    return (number >> 1) ^ -(number & 1), at


def _text(value: bytes, at: int) -> tuple[str, int]:
    """Return a string, which follows its length, and the offset after it: past the end of `value` if it is cut off."""
    length = value[at]
    at += 1
    if length & 129:  # more than one byte, or negative
        length, at = _long(value, at - 1)
        if length < 0:
            raise Unusual
        end = at + length
    else:
        end = at + (length >> 1)
    return value[at:end].decode(), end


def _text_or_none(value: bytes, at: int) -> tuple[str | None, int]:
    branch = value[at]
    if branch == 2:
        return _text(value, at + 1)
    if branch:
        raise Unusual
    return None, at + 1


def _block(value: bytes, at: int) -> tuple[int, int]:
    """Return how many items follow, and where they begin; the count is 0 after the last block."""
    count, at = _long(value, at)
    if count < 0:  # the block's size in bytes follows the count
        raise Unusual
    return count, at


def plain_intent(value: bytes, at: int) -> Intent:
    """Return the intent whose Avro bytes begin at `at` and end with `value`.

    Raise Unusual, IndexError, KeyError or ValueError if fastavro has to decide what the bytes are.
    """
    intent_id, at = _text(value, at)
    tenant, at = _text(value, at)
    idempotency_key, at = _text(value, at)
    intent_type = _TYPES[value[at]]
    legs = []
    count, at = _block(value, at + 1)
    while count:
        for _ in range(count):
            account, at = _text(value, at)
            direction = _DIRECTIONS[value[at]]
            amount_minor, at = _long(value, at + 1)
            currency, at = _text(value, at)
            legs.append(Leg(account, direction, amount_minor, currency))
        count, at = _block(value, at)
    reverses, at = _text_or_none(value, at)
    value_time = None
    if value[at] == 2:
        value_time, at = _long(value, at + 1)
    elif value[at]:
        raise Unusual
    else:
        at += 1
    reference, at = _text_or_none(value, at)
    metadata = {}
    count, at = _block(value, at)
    while count:
        for _ in range(count):
            key, at = _text(value, at)
            metadata[key], at = _text(value, at)
        count, at = _block(value, at)
    accepted_time, at = _long(value, at)
    if at != len(value):
        raise Unusual
    return Intent(
        UUID(intent_id),
        tenant,
        idempotency_key,
        intent_type,
        tuple(legs),
        None if reverses is None else UUID(reverses),
        value_time,
        reference,
        metadata,
        accepted_time,
    )
