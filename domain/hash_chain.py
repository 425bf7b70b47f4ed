"""The hash of a journal record: SHA-256 over the previous record's hash and the record's canonical JSON (RFC 8785)."""

from hashlib import sha256

from domain.fingerprint import canonical_json, legs_json
from domain.journal import JournalRow


def record_json(row: JournalRow) -> bytes:
    """The canonical JSON that is hashed: all members but the two hashes; bytes as hex, amounts as strings."""
    return canonical_json(
        {
            "booked_time": row.booked_time,
            "detail": row.detail,
            "fingerprint": row.fingerprint.hex(),
            "idempotency_key": row.idempotency_key,
            "intent_id": None if row.intent_id is None else str(row.intent_id),
            "lane": row.lane,
            "legs": legs_json(row.legs),
            "metadata": row.metadata,
            "outcome": row.outcome.value,
            "reason": row.reason,
            "reference": row.reference,
            "reverses": None if row.reverses is None else str(row.reverses),
            "seq": row.seq,
            "source_offset": row.source_offset,
            "source_topic": row.source_topic,
            "tenant": row.tenant,
            "type": row.type,
            "value_time": row.value_time,
        }
    )


def chained(previous_hash: bytes, row: JournalRow) -> JournalRow:
    """The row with its place in the chain: `previous_hash` (32 bytes) and its own hash."""
    return JournalRow(*row[:-2], previous_hash, sha256(previous_hash + record_json(row)).digest())
