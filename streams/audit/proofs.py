"""Making inclusion proofs: what verifier.py checks, gathered from the ledger's row and audit's own copies."""

from typing import Any, Final

from db import audit as db
from db.agent_connection import snapshot
from domain.breaks import record_subject
from domain.errors import LedgerlineError
from streams.audit.merkle import inclusion_path
from streams.audit.signing import checkpoint_members, lane_leaves, lane_members
from streams.audit.stored import previous_hash, stored_hash, stored_members, with_legs
from streams.audit.verifier import FORMAT


class ProofError(LedgerlineError):
    """There is no proof of this record, or not yet."""


ADVICE: Final = "see `ledgerline audit verify`"


def prove(dsn: str, intent_id: str, tenant: str | None = None) -> dict[str, Any]:
    """The proof that the record which settled an intent is in a signed checkpoint; its format is in docs/PROOF.md.

    ProofError where the intent is not settled, no checkpoint covers it yet, or its row is not what was published.
    """
    with snapshot(dsn, db.ROLE) as connection:
        places = list(db.intent_places(connection, intent_id, tenant))
        if not places:
            raise ProofError(f"No row of the ledger settles the intent {intent_id}: it is pending, or unknown.")
        if len(places) > 1:
            raise ProofError(f"Several tenants have an intent {intent_id}: name one with --tenant.")
        lane, seq, _ = places[0]
        checkpoint = db.covering_checkpoint(connection, lane, seq)
        if checkpoint is None:
            raise ProofError(f"No checkpoint covers {record_subject(lane, seq)} yet: ask again after the next one.")
        ((_, heads),) = db.checkpoints(connection, checkpoint.checkpoint, 1)
        head = next(head for head in heads if head.lane == lane)
        joined = db.hashes(connection, lane, head.first_seq, head.next_seq)
        before = db.hashes(connection, lane, seq - 1, seq) if seq else None
        rows, legs = db.stored_rows(connection, lane, seq, seq + 1)
    leaves = [joined[at : at + db.HASH_BYTES] for at in range(0, len(joined), db.HASH_BYTES)]
    ((row, row_legs),) = with_legs(rows, legs)
    index = seq - head.first_seq
    if len(leaves) != head.next_seq - head.first_seq or stored_hash(lane, row, row_legs, before) != leaves[index]:
        raise ProofError(f"The stored row at {record_subject(lane, seq)} is not what was published: {ADVICE}.")
    lanes = sorted(heads)
    return {
        "format": FORMAT,
        "record": stored_members(lane, row, row_legs),
        "previous_hash": previous_hash(row, before).hex(),
        "hash": leaves[index].hex(),
        "records": {
            "index": index,
            "size": len(leaves),
            "path": [step.hex() for step in inclusion_path(leaves, index)],
        },
        "lane": lane_members(head),
        "lanes": {
            "index": lanes.index(head),
            "size": len(lanes),
            "path": [step.hex() for step in inclusion_path(lane_leaves(lanes), lanes.index(head))],
        },
        "checkpoint": {**checkpoint_members(checkpoint, lanes), "signature": checkpoint.signature.hex()},
    }
