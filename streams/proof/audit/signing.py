"""Signs checkpoints and checks them. Signatures are Ed25519 (RFC 8032)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.checkpoints import CheckpointRow, LaneHead, compute_key_id, make_checkpoint_members, make_lane_leaves
from domain.merkle import compute_root
from runtime.key_files import SigningKey

GENESIS: Final = bytes(32)


def make_signed_bytes(row: CheckpointRow, lanes: Sequence[LaneHead]) -> bytes:
    """Return the bytes that are signed: the canonical JSON (RFC 8785) of all members except the signature."""
    return rfc8785.dumps(make_checkpoint_members(row, lanes))


def sign(
    number: int, previous_hash: bytes, lanes: Sequence[LaneHead], signed_time: int, key: SigningKey
) -> CheckpointRow:
    """Return the signed checkpoint over these heads; `signed_time` is in microseconds since 1970."""
    unsigned = CheckpointRow(number, previous_hash, compute_root(make_lane_leaves(lanes)), signed_time, key.key_id, b"")
    return unsigned._replace(signature=key.private.sign(make_signed_bytes(unsigned, lanes)))


def find_checkpoint_faults(
    row: CheckpointRow, lanes: Sequence[LaneHead], previous: tuple[CheckpointRow, Sequence[LaneHead]] | None, key: bytes
) -> list[str]:
    """Return what is wrong with a checkpoint, alone and as successor of `previous`; `key` is the raw public key."""
    wrong = []
    if row.root != compute_root(make_lane_leaves(lanes)):
        wrong.append("Its root is not that of its lanes.")
    if row.previous_hash != (GENESIS if previous is None else sha256(make_signed_bytes(*previous)).digest()):
        wrong.append("It does not follow from the checkpoint before it.")
    ends = {} if previous is None else {head.lane: head.next_seq for head in previous[1]}
    if any(head.first_seq != ends.pop(head.lane, 0) for head in lanes) or ends:
        wrong.append("Its lanes do not go on where the checkpoint before it ended.")
    if row.key_id != compute_key_id(key):
        return [*wrong, f"It was signed by another key, {row.key_id}."]
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(row.signature, make_signed_bytes(row, lanes))
    except InvalidSignature:
        wrong.append("Its signature is not that of the key.")
    return wrong


def make_checkpoint_event(row: CheckpointRow, lanes: Sequence[LaneHead]) -> dict[str, Any]:
    """Return the Avro record of a checkpoint."""
    return {**row._asdict(), "lanes": [head._asdict() for head in sorted(lanes)]}
