"""Intents and their legs, as the client asked; immutable, without I/O."""

import re
from hashlib import sha1
from typing import Any, Final, NamedTuple
from uuid import UUID, SafeUUID

DEBIT: Final = 1
CREDIT: Final = -1
# 0 is an unknown direction. It has a name so that a malformed intent has a fingerprint too.
DIRECTION_NAMES: Final = {DEBIT: "debit", CREDIT: "credit", 0: "unknown"}
DIRECTIONS: Final = {"debit": DEBIT, "credit": CREDIT}

AMOUNT_MINOR_MAX: Final = 2**63 - 1
LEGS_MAX: Final = 1000
ADDRESS_CHARACTERS_MAX: Final = 256
KEY_CHARACTERS_MAX: Final = 255
TENANT_CHARACTERS_MAX: Final = 64
REFERENCE_CHARACTERS_MAX: Final = 1000
METADATA_ENTRIES_MAX: Final = 50
METADATA_VALUE_CHARACTERS_MAX: Final = 1000
# Value times from 1900-01-01 (included) to 2200-01-01 (excluded), in microseconds since 1970.
VALUE_TIME_MIN: Final = -2_208_988_800_000_000
VALUE_TIME_MAX: Final = 7_258_118_400_000_000

ADDRESS_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)*", re.ASCII)
_ADDRESSES_KEPT_MAX: Final = 100_000
TENANT_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
CURRENCY_PATTERN: Final = re.compile(r"[A-Z][A-Z0-9._-]{0,23}", re.ASCII)
# ASCII only, so that sorting by code point, by UTF-8 and by UTF-16 (RFC 8785) gives the same order.
METADATA_KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)

# Namespace of intent ids: uuid5(DNS namespace, "ledgerline.intents"), fixed for ever.
INTENT_NAMESPACE: Final = UUID("caad481a-69a2-59e0-9004-8e048d6013ba")
_NAMESPACE_BYTES: Final = INTENT_NAMESPACE.bytes
# RFC 9562: four bits of version, two of variant; the rest is the name's hash.
_UUID_MASK: Final = ~(0xF << 76 | 0b11 << 62) & (1 << 128) - 1
_UUID_DIGITS: Final = 32
_UUID_VERSION_5: Final = 5 << 76 | 0b10 << 62


class Leg(NamedTuple):
    """One debit or credit of an intent."""

    account: str
    direction: int
    """DEBIT or CREDIT."""
    amount_minor: int
    """Positive count of the currency's minor units."""
    currency: str


class Intent(NamedTuple):
    """What a client asks the ledger to do, decoded but not yet judged.

    Times are microseconds since 1970-01-01 UTC. `type` is transfer or reversal; any other type is rejected later.
    """

    intent_id: UUID
    tenant: str
    idempotency_key: str
    type: str
    legs: tuple[Leg, ...]
    reverses: UUID | None
    value_time: int | None
    reference: str | None
    metadata: dict[str, str]
    accepted_time: int


_addresses: set[str] = set()
"""Addresses that were found well formed. An lru_cache would also keep their order, and so cost more at each hit."""


def is_address(text: str) -> bool:
    """Return whether the text has the form of an account address, whatever the chart allows."""
    if text in _addresses:
        return True
    if len(text) > ADDRESS_CHARACTERS_MAX or ADDRESS_PATTERN.fullmatch(text) is None:
        return False
    if len(_addresses) >= _ADDRESSES_KEPT_MAX:
        _addresses.clear()
    _addresses.add(text)
    return True


def compute_intent_number(tenant: str, idempotency_key: str) -> int:
    """Return the 128 bits of `compute_intent_id`.

    Every message is compared by them: that takes half as long as by UUID.
    """
    name = f"{tenant}\x00{idempotency_key}".encode()
    digest = sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).digest()
    return int.from_bytes(digest[:16]) & _UUID_MASK | _UUID_VERSION_5


def compute_intent_id(tenant: str, idempotency_key: str) -> UUID:
    """Return the id of the intent with this key: UUID version 5 (RFC 9562, 5.5) of tenant, NUL, key.

    Every producer uses this id. Tenant and key may not hold a NUL, so no two pairs share a name.
    """
    return UUID(int=compute_intent_number(tenant, idempotency_key))


_set: Final = object.__setattr__
_SAFETY: Final = SafeUUID.unknown


def parse_intent_id(text: str) -> UUID:
    """Return `UUID(text)`, in fewer steps for digits and hyphens; raise ValueError if the text is not a UUID."""
    digits = text.replace("-", "")
    if len(digits) != _UUID_DIGITS:
        return UUID(text)
    try:
        number = int(digits, 16)
    except ValueError:
        return UUID(text)  # it says what is wrong
    # The constructor looks first which of six forms it was given, and then sets the same two attributes.
    made = object.__new__(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _SAFETY)
    return made


# A NamedTuple's constructor is a Python function around this one, and takes twice as long.
_make: Final = tuple.__new__


def make_intent(record: dict[str, Any]) -> Intent:
    """Return the intent in the Avro record PaymentIntent; raise ValueError if an id is not a UUID."""
    rows: list[dict[str, Any]] = record["legs"]
    legs = [
        _make(Leg, (row["account"], DIRECTIONS.get(row["direction"], 0), row["amount_minor"], row["currency"]))
        for row in rows
    ]
    reverses = record["reverses"]
    members = (
        parse_intent_id(record["intent_id"]),
        record["tenant"],
        record["idempotency_key"],
        record["type"],
        tuple(legs),
        None if reverses is None else parse_intent_id(reverses),
        record["value_time"],
        record["reference"],
        record["metadata"],
        record["accepted_time"],
    )
    return _make(Intent, members)
