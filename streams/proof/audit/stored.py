"""Recomputes the hashes of rows in the ledger's tables and compares them with audit's copy. It does no I/O.

Each row is judged by the copies of its own hash and of the hash before it. So only the altered row is reported, and not
the rows after it.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256

from db.audit import HASH_BYTES
from domain.breaks import BreakKind, Finding, make_record_subject
from domain.stored_records import StoredLeg, StoredRow, join_legs, make_stored_members
from streams.proof.audit.chain import ABSENT
from streams.proof.records.canonical import make_canonical_json


def choose_previous_hash(row: StoredRow, before: bytes | None) -> bytes:
    """Return the copy of the hash before the row; if the copy lacks it, return the one that the row itself has."""
    return row.previous_hash if before is None or before == ABSENT else before


def compute_stored_hash(
    lane: int, row: StoredRow, legs: Sequence[dict[str, str | None]], before: bytes | None
) -> bytes:
    """Return the hash of a stored row's content, chained to the copy of the hash before it."""
    members = make_canonical_json(make_stored_members(lane, row, legs), row.metadata)
    return sha256(choose_previous_hash(row, before) + members).digest()


def find_row_fault(row: StoredRow, content_hash: bytes, leg_total: int, kept: bytes) -> str | None:
    """Return what is wrong with a stored row, compared with the copy of its hash; None if nothing is."""
    if kept == ABSENT:
        return None  # the topic did not bring this record: nothing to compare, and the gap is a break of its own
    if content_hash != kept:
        return "The stored row is not what was published: its content or its entries were altered."
    if row.hash != kept:
        return "The stored row's hash was altered."
    if row.leg_count != leg_total:
        return f"The stored row says that it has {row.leg_count} legs, and has {leg_total}."
    return None


def find_window_faults(
    lane: int,
    first_seq: int,
    rows: Sequence[StoredRow],
    legs: Sequence[StoredLeg],
    kept: bytes,
    before: bytes | None,
) -> Iterator[tuple[int, str]]:
    """Yield (seq, what is wrong) for a window of a lane, in order.

    `kept`: copies of the hashes from first_seq on, joined; the window ends with the last one. `before`: the copy of the
    hash of first_seq - 1.
    """
    expected = first_seq
    for row, row_legs in join_legs(rows, legs):
        for missing in range(expected, row.seq):
            yield missing, "The ledger has no row here; it was deleted."
        at = (row.seq - first_seq) * HASH_BYTES
        previous = kept[at - HASH_BYTES : at] if at else before
        content_hash = compute_stored_hash(lane, row, row_legs, previous)
        fault = find_row_fault(row, content_hash, len(row_legs), kept[at : at + HASH_BYTES])
        if fault is not None:
            yield row.seq, fault
        expected = row.seq + 1
    for missing in range(expected, first_seq + len(kept) // HASH_BYTES):
        yield missing, "The ledger has no row here; it was deleted."


def make_stored_finding(lane: int, seq: int, detail: str) -> Finding:
    """Return the finding for a row of the ledger's tables that is not what was published."""
    return Finding(BreakKind.STORED, make_record_subject(lane, seq), detail, lane, seq)


def make_stray_finding(lane: int, seq: int, has_row: bool) -> Finding:
    """Return the finding for a row or entries outside every lane, which were never published."""
    what = "A journal row" if has_row else "Entries without a journal row"
    detail = f"{what} nobody published; inserted past the end of the lane."
    return make_stored_finding(lane, seq, detail)._replace(evidence={"is_stray": 1})
