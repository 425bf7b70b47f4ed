"""Audit's checkpoints as audit signs them: the lane heads in them, and their canonical form (docs/PROOF.md)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class LaneHead(NamedTuple):
    """A lane in a checkpoint: its range of records, the last record's hash, the Merkle root over all their hashes."""

    lane: int
    first_seq: int
    next_seq: int
    head: bytes
    records_root: bytes


class CheckpointRow(NamedTuple):
    """A signed checkpoint without its lanes. `signed_time` is microseconds since 1970-01-01 UTC."""

    checkpoint: int
    previous_hash: bytes
    root: bytes
    signed_time: int
    key_id: str
    signature: bytes


def compute_key_id(public_raw: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key."""
    return sha256(public_raw).hexdigest()[:16]


def make_public_pem(public_raw: bytes) -> bytes:
    """Return the public key as PEM (SubjectPublicKeyInfo), which verifiers read."""
    key = Ed25519PublicKey.from_public_bytes(public_raw)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_lane_members(head: LaneHead) -> dict[str, Any]:
    """Return the members of a lane's head in canonical JSON."""
    return {
        "first_seq": head.first_seq,
        "head": head.head.hex(),
        "lane": head.lane,
        "next_seq": head.next_seq,
        "records_root": head.records_root.hex(),
    }


def make_lane_leaves(lanes: Sequence[LaneHead]) -> list[bytes]:
    """Return the leaves of the tree over all lanes, in order of lane."""
    return [rfc8785.dumps(make_lane_members(head)) for head in sorted(lanes)]


def make_checkpoint_members(row: CheckpointRow, lanes: Sequence[LaneHead]) -> dict[str, Any]:
    """Return all members of a checkpoint except its signature; bytes in hex."""
    return {
        "checkpoint": row.checkpoint,
        "key_id": row.key_id,
        "lanes": [make_lane_members(head) for head in sorted(lanes)],
        "previous_hash": row.previous_hash.hex(),
        "root": row.root.hex(),
        "signed_time": row.signed_time,
    }


def make_signed_members(row: CheckpointRow, lanes: Sequence[LaneHead]) -> dict[str, Any]:
    """Return all members of a checkpoint, the form that users and proofs get."""
    return {**make_checkpoint_members(row, lanes), "signature": row.signature.hex()}
