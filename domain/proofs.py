"""Inclusion proofs, built without I/O from data that the caller has read (docs/PROOF.md has the format)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import rfc8785

from domain.breaks import make_record_subject
from domain.checkpoints import CheckpointRow, LaneHead, make_lane_leaves, make_lane_members, make_signed_members
from domain.errors import LedgerlineError
from domain.merkle import compute_inclusion_path

FORMAT: Final = "ledgerline-proof-1"
ABSENT: Final = bytes(32)
ADVICE: Final = "see `ledgerline audit verify`"


class ProofError(LedgerlineError):
    """There is no proof of this record, or not yet."""


class ProofPending(ProofError):
    """The intent is not settled, or no checkpoint covers its record yet: a later one will."""


class ReceiptMissing(ProofError):
    """Posting has signed no head over this record, and never will."""


def make_proof(
    record: dict[str, Any],
    previous_hash: bytes,
    leaves: Sequence[bytes],
    lane: LaneHead,
    checkpoint: CheckpointRow,
    lanes: Sequence[LaneHead],
) -> dict[str, Any]:
    """Return the proof that `checkpoint` covers `record`. Raise ProofError if the record's hash is not the kept one.

    `record`: the members that its hash covers besides `previous_hash`. `leaves`: the kept hashes of the lane's range.
    """
    index = record["seq"] - lane.first_seq
    record_hash = sha256(previous_hash + rfc8785.dumps(record)).digest()
    if len(leaves) != lane.next_seq - lane.first_seq or record_hash != leaves[index]:
        subject = make_record_subject(record["lane"], record["seq"])
        raise ProofError(f"The stored row at {subject} is not what was published: {ADVICE}.")
    heads = sorted(lanes)
    return {
        "format": FORMAT,
        "record": record,
        "previous_hash": previous_hash.hex(),
        "hash": record_hash.hex(),
        "records": _make_place(leaves, index),
        "lane": make_lane_members(lane),
        "lanes": _make_place(make_lane_leaves(heads), heads.index(lane)),
        "checkpoint": make_signed_members(checkpoint, heads),
    }


def _make_place(leaves: Sequence[bytes], index: int) -> dict[str, Any]:
    """Return a leaf's place in its tree, in the form of a proof."""
    return {"index": index, "size": len(leaves), "path": [step.hex() for step in compute_inclusion_path(leaves, index)]}
