"""The hash of a journal record: SHA-256 over the previous record's hash and the record's canonical JSON (RFC 8785)."""

from hashlib import sha256
from typing import Any, Final

import orjson

from domain.fingerprint import make_legs_json, sort_keys
from domain.journal import JournalRow

# JournalRow's constructor is a Python function around this one.
_make: Final = tuple.__new__


def make_record_json(row: JournalRow) -> bytes:
    """Return the canonical JSON that is hashed: all members except the two hashes; bytes as hex, amounts as strings."""
    # This runs for every record, so it is written for speed: the row is unpacked at once, the members are in order of
    # their names and need no sorting, and orjson itself writes ids and outcomes as text. As fields are Any, mypyc does
    # not check and convert each of them.
    fields: Any = row
    (lane, seq, source_topic, source_offset, outcome, reason, detail, tenant, intent_id, idempotency_key, fingerprint,
     intent_type, reverses, legs, reference, metadata, value_time, booked_time, _, _) = fields  # fmt: skip
    return orjson.dumps(
        {
            "booked_time": booked_time,
            "detail": detail,
            "fingerprint": fingerprint.hex(),
            "idempotency_key": idempotency_key,
            "intent_id": intent_id,
            "lane": lane,
            "legs": make_legs_json(legs),
            "metadata": sort_keys(metadata),
            "outcome": outcome,
            "reason": reason,
            "reference": reference,
            "reverses": reverses,
            "seq": seq,
            "source_offset": source_offset,
            "source_topic": source_topic,
            "tenant": tenant,
            "type": intent_type,
            "value_time": value_time,
        }
    )


def chain_row(previous_hash: bytes, row: JournalRow) -> JournalRow:
    """Return the row with its place in the chain: `previous_hash` (32 bytes) and its own hash. Ignore the row's own."""
    row_hash = sha256(previous_hash + make_record_json(row)).digest()
    # The two hashes are the last fields. _replace would take twice the time.
    fields: Any = row
    return _make(JournalRow, (*fields[:-2], previous_hash, row_hash))
