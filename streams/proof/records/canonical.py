"""Canonical JSON, hashes and fingerprints, written anew from docs/PROOF.md to find faults in the poster's."""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import orjson

from streams.proof.records.decoding import IntentRecord, JournalRecord, LegRecord

_PLAIN_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def make_canonical_json(value: Any, keys: Mapping[str, str] | None = None) -> bytes:
    """Return the RFC 8785 canonical JSON of a value without floats.

    `keys` is the metadata. orjson sorts keys by their UTF-8 bytes, and RFC 8785 sorts them by UTF-16 code units. Both
    orders are the same for ASCII keys, and only metadata can have other keys. The package rfc8785 is not used: it
    refuses integers beyond 2^53, which an intent to be rejected may have. Tests compare the output with the package's.
    """
    if keys and not "".join(keys).isascii():
        return orjson.dumps(_sort_keys(value))
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _sort_keys(value: Any) -> Any:
    """Return the value with the keys of each object in order of their UTF-16 code units (RFC 8785, 3.2.3)."""
    if isinstance(value, dict):
        return {key: _sort_keys(value[key]) for key in sorted(value, key=_encode_utf_16)}
    if isinstance(value, list):
        return [_sort_keys(item) for item in value]
    return value


def _encode_utf_16(key: str) -> bytes:
    return key.encode("utf-16-be")


def make_legs_members(legs: Sequence[LegRecord]) -> list[dict[str, str]]:
    """Return legs with their amounts as decimal strings, because a JSON number is exact to 2^53 only."""
    return [
        {
            "account": leg["account"],
            "amount_minor": str(leg["amount_minor"]),
            "currency": leg["currency"],
            "direction": leg["direction"],
        }
        for leg in legs
    ]


def make_record_members(record: JournalRecord) -> dict[str, Any]:
    """Return the members of a journal record that its hash covers: all but both hashes and the signature's fields."""
    return {
        "booked_time": record["booked_time"],
        "detail": record["detail"],
        "fingerprint": record["fingerprint"].hex(),
        "idempotency_key": record["idempotency_key"],
        "intent_id": record["intent_id"],
        "lane": record["lane"],
        "legs": make_legs_members(record["legs"]),
        "metadata": record["metadata"],
        "outcome": record["outcome"],
        "reason": record["reason"],
        "reference": record["reference"],
        "reverses": record["reverses"],
        "seq": record["seq"],
        "source_offset": record["source_offset"],
        "source_topic": record["source_topic"],
        "tenant": record["tenant"],
        "type": record["type"],
        "value_time": record["value_time"],
    }


def make_record_json(record: JournalRecord) -> bytes:
    """Return the canonical JSON of a record's members."""
    return make_canonical_json(make_record_members(record), record["metadata"])


def compute_record_hash(previous_hash: bytes, record: JournalRecord) -> bytes:
    """Return SHA-256 (32 bytes) over the previous record's hash and the record's canonical JSON."""
    return sha256(previous_hash + make_record_json(record)).digest()


def make_plain_uuid(text: str) -> str:
    """Return the canonical form of a UUID (RFC 9562); raise ValueError if the text is not a UUID."""
    return text if _PLAIN_UUID.fullmatch(text) else str(UUID(text))


def parse_uuid_number(text: str) -> int:
    """Return the 128 bits of a UUID as a number; raise ValueError if the text is not a UUID."""
    return int(text.replace("-", ""), 16) if _PLAIN_UUID.fullmatch(text) else UUID(text).int


def compute_intent_fingerprint(intent: IntentRecord) -> bytes:
    """Return SHA-256 (32 bytes) over the canonical JSON of what an intent asks.

    Raise ValueError if `reverses` is not a UUID.
    """
    reverses = intent["reverses"]
    asked = {
        "legs": make_legs_members(intent["legs"]),
        "metadata": intent["metadata"],
        "reference": intent["reference"],
        "reverses": None if reverses is None else make_plain_uuid(reverses),
        "type": intent["type"],
        "value_time": intent["value_time"],
    }
    return sha256(make_canonical_json(asked, intent["metadata"])).digest()
