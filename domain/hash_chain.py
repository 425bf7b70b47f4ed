"""The hash of a journal record: SHA-256 over the previous record's hash and the record's canonical JSON (RFC 8785)."""

from hashlib import sha256

from domain.fingerprint import canonical_json, legs_json
from domain.journal import JournalRow


def record_json(row: JournalRow) -> bytes:
    """The canonical JSON that is hashed: all members but the two hashes; bytes as hex, amounts as strings."""
    # Taken apart at once, and names, ids and outcomes left to the serialiser: this is done for every record.
    (lane, seq, source_topic, source_offset, outcome, reason, detail, tenant, intent_id, idempotency_key, fingerprint,
     intent_type, reverses, legs, reference, metadata, value_time, booked_time, _, _) = row  # fmt: skip
    return canonical_json(
        {
            "booked_time": booked_time,
            "detail": detail,
            "fingerprint": fingerprint.hex(),
            "idempotency_key": idempotency_key,
            "intent_id": intent_id,
            "lane": lane,
            "legs": legs_json(legs),
            "metadata": metadata,
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


def chained(previous_hash: bytes, row: JournalRow) -> JournalRow:
    """The row with its place in the chain: `previous_hash` (32 bytes) and its own hash."""
    return JournalRow(*row[:-2], previous_hash, sha256(previous_hash + record_json(row)).digest())
