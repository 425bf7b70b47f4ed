"""Rows as the ledger's tables store them, and the members that their hashes cover."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class StoredRow(NamedTuple):
    """A stored row of the ledger's journal without its legs; `previous_hash` is the hash stored in the row before."""

    seq: int
    source_topic: str
    source_offset: int
    outcome: str
    reason: str
    detail: str
    tenant: str | None
    intent_id: str | None
    idempotency_key: str | None
    fingerprint: bytes
    type: str | None
    reverses: str | None
    leg_count: int
    reference: str | None
    metadata: dict[str, str] | None
    value_time: int | None
    booked_time: int
    previous_hash: bytes
    hash: bytes


class StoredLeg(NamedTuple):
    """A stored entry with its account's address; the amount is a decimal string, as in the hashed JSON."""

    seq: int
    account: str | None
    direction: str
    amount_minor: str
    currency: str


def make_stored_members(lane: int, row: StoredRow, legs: Sequence[dict[str, str | None]]) -> dict[str, Any]:
    """Return the members of a stored row that its hash covers.

    They are those of streams.proof.records.canonical.make_record_members.
    """
    return {
        "booked_time": row.booked_time,
        "detail": row.detail,
        "fingerprint": row.fingerprint.hex(),
        "idempotency_key": row.idempotency_key,
        "intent_id": row.intent_id,
        "lane": lane,
        "legs": legs,
        "metadata": row.metadata or {},
        "outcome": row.outcome,
        "reason": row.reason,
        "reference": row.reference,
        "reverses": row.reverses,
        "seq": row.seq,
        "source_offset": row.source_offset,
        "source_topic": row.source_topic,
        "tenant": row.tenant,
        "type": row.type,
        "value_time": row.value_time,
    }


def join_legs(
    rows: Sequence[StoredRow], legs: Sequence[StoredLeg]
) -> Iterator[tuple[StoredRow, list[dict[str, str | None]]]]:
    """Yield each row with its legs in the form of canonical JSON. Callers give rows and legs in order of seq."""
    by_seq: dict[int, list[dict[str, str | None]]] = {}
    for seq, account, direction, amount_minor, currency in legs:
        leg = {"account": account, "amount_minor": amount_minor, "currency": currency, "direction": direction}
        by_seq.setdefault(seq, []).append(leg)
    for row in rows:
        yield row, by_seq.get(row.seq, [])
