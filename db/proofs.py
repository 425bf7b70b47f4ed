"""What an inclusion proof is made of: the ledger's row, and audit's own copies, in one state of the database."""

from typing import Any

from db import audit
from db.agent_connection import snapshot
from db.connections import explained
from domain.breaks import record_subject
from domain.proofs import ABSENT, ProofError, ProofPending, proof_of
from domain.stored_records import stored_members, with_legs


def prove(
    dsn: str,
    intent_id: str,
    tenant: str | None = None,
    *,
    role: str = audit.ROLE,
    statement_seconds_max: float | None = None,
) -> dict[str, Any]:
    """The proof that the record which settled an intent is in a signed checkpoint; its format is in docs/PROOF.md.

    ProofPending where the intent is not settled, or no checkpoint covers it yet; ProofError where its row is not what
    was published, or where the intent is several tenants' and none is named. DatabaseBusy if Postgres takes longer for
    one of the queries than it may.
    """
    with (
        explained("Postgres cannot be reached for a proof."),
        snapshot(dsn, role, statement_seconds_max=statement_seconds_max) as connection,
    ):
        places = list(audit.intent_places(connection, intent_id, tenant))
        if not places:
            raise ProofPending(f"No row of the ledger settles the intent {intent_id}: it is pending, or unknown.")
        if len(places) > 1:
            raise ProofError(f"Several tenants have an intent {intent_id}: name one with --tenant.")
        lane, seq, _ = places[0]
        checkpoint = audit.covering_checkpoint(connection, lane, seq)
        if checkpoint is None:
            subject = record_subject(lane, seq)
            raise ProofPending(f"No checkpoint covers {subject} yet: ask again after the next one.")
        ((_, heads),) = audit.checkpoints(connection, checkpoint.checkpoint, 1)
        head = next(head for head in heads if head.lane == lane)
        joined = audit.hashes(connection, lane, head.first_seq, head.next_seq)
        before = audit.hashes(connection, lane, seq - 1, seq) if seq else None
        rows, legs = audit.stored_rows(connection, lane, seq, seq + 1)
    leaves = [joined[at : at + audit.HASH_BYTES] for at in range(0, len(joined), audit.HASH_BYTES)]
    ((row, row_legs),) = with_legs(rows, legs)
    # What the row follows from is the copy of the hash before it, and only where that is unknown the ledger's own.
    previous = row.previous_hash if before is None or before == ABSENT else before
    return proof_of(stored_members(lane, row, row_legs), previous, leaves, head, checkpoint, heads)
