"""Proofs and receipts, made from one snapshot of the ledger's row and of audit's copies or posting's signature."""

from hashlib import sha256
from typing import Any

import rfc8785

from db import audit
from db.agent_connection import open_snapshot
from db.connections import explain_errors
from domain.breaks import make_record_subject
from domain.proofs import ABSENT, ADVICE, ProofError, ProofPending, ReceiptMissing, make_proof
from domain.signed_heads import make_receipt
from domain.stored_records import join_legs, make_stored_members


def prove(
    dsn: str,
    intent_id: str,
    tenant: str | None = None,
    *,
    role: str = audit.ROLE,
    statement_seconds_max: float | None = None,
) -> dict[str, Any]:
    """Return the proof that an intent's settling record is in a signed checkpoint; docs/PROOF.md has the format.

    Raise ProofPending if the intent is not settled, or if no checkpoint covers it yet. Raise ProofError if the stored
    row is not what was published, or if several tenants have the intent and none is named. Raise DatabaseBusy if one
    of the queries exceeds its time limit.
    """
    with (
        explain_errors("Postgres cannot be reached for a proof."),
        open_snapshot(dsn, role, statement_seconds_max=statement_seconds_max) as connection,
    ):
        lane, seq = _find_place(connection, intent_id, tenant)
        checkpoint = audit.find_covering_checkpoint(connection, lane, seq)
        if checkpoint is None:
            subject = make_record_subject(lane, seq)
            raise ProofPending(f"No checkpoint covers {subject} yet: ask again after the next one.")
        ((_, heads),) = audit.list_checkpoints(connection, checkpoint.checkpoint, 1)
        head = next(head for head in heads if head.lane == lane)
        joined = audit.read_hashes(connection, lane, head.first_seq, head.next_seq)
        before = audit.read_hashes(connection, lane, seq - 1, seq) if seq else None
        rows, legs = audit.read_stored_rows(connection, lane, seq, seq + 1)
    leaves = [joined[at : at + audit.HASH_BYTES] for at in range(0, len(joined), audit.HASH_BYTES)]
    ((row, row_legs),) = join_legs(rows, legs)
    # The previous hash is audit's copy of it. The ledger's own is used only if audit does not have that hash.
    previous = row.previous_hash if before is None or before == ABSENT else before
    return make_proof(make_stored_members(lane, row, row_legs), previous, leaves, head, checkpoint, heads)


def read_receipt(
    dsn: str,
    intent_id: str,
    tenant: str | None = None,
    *,
    role: str = audit.ROLE,
    statement_seconds_max: float | None = None,
) -> dict[str, Any]:
    """Return posting's receipt for the record that settled an intent; docs/PROOF.md has the format.

    Raise ProofPending if the intent is not settled. Raise ReceiptMissing if posting had no key. Raise ProofError if the
    row does not match its hash, or if several tenants have the intent and none is named. Raise DatabaseBusy if one of
    the queries exceeds its time limit.
    """
    with (
        explain_errors("Postgres cannot be reached for a receipt."),
        open_snapshot(dsn, role, statement_seconds_max=statement_seconds_max) as connection,
    ):
        lane, seq = _find_place(connection, intent_id, tenant)
        head = audit.find_signed_head_over(connection, lane, seq)
        if head is None:
            raise ReceiptMissing(f"Posting signed no head over {make_record_subject(lane, seq)}: it had no key then.")
        hashes = audit.read_stored_hashes(connection, lane, head.first_seq, head.next_seq)
        rows, legs = audit.read_stored_rows(connection, lane, seq, seq + 1)
    ((row, row_legs),) = join_legs(rows, legs)
    record = make_stored_members(lane, row, row_legs)
    stored_hash = sha256(row.previous_hash + rfc8785.dumps(record)).digest()
    if stored_hash != row.hash or len(hashes) != (head.next_seq - head.first_seq) * audit.HASH_BYTES:
        raise ProofError(f"The stored row at {make_record_subject(lane, seq)} is not what its hash says: {ADVICE}.")
    return make_receipt(record, row.previous_hash, head, hashes)


def _find_place(connection: Any, intent_id: str, tenant: str | None) -> tuple[int, int]:
    """Return lane and seq of the row that settled an intent."""
    places = list(audit.find_intent_places(connection, intent_id, tenant))
    if not places:
        raise ProofPending(f"No row of the ledger settles the intent {intent_id}: it is pending, or unknown.")
    if len(places) > 1:
        raise ProofError(f"Several tenants have an intent {intent_id}: name one with --tenant.")
    lane, seq, _ = places[0]
    return lane, seq
