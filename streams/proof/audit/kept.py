"""Reads and checks the checkpoints and proofs that somebody kept outside the ledger, in files."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.checkpoints import CheckpointRow, LaneHead, make_lane_leaves
from domain.errors import LedgerlineError
from domain.merkle import compute_root
from streams.proof.audit import verifier
from streams.proof.audit.signing import make_signed_bytes

_LANE_NAMES: Final = frozenset(LaneHead._fields)
_NAMES: Final = frozenset((*CheckpointRow._fields, "lanes"))
HEX_CHARACTERS: Final = 64


class KeptError(LedgerlineError):
    """A file holds neither a checkpoint nor a proof."""


class Kept(NamedTuple):
    """A checkpoint that was kept outside the ledger, and its place."""

    place: str
    """Such as `checkpoint.json` or `witness.jsonl line 3`."""
    row: CheckpointRow
    heads: list[LaneHead]
    proof: dict[str, Any] | None = None
    """The proof that contains the checkpoint; None if it was kept alone."""


def read_kept(path: Path) -> Kept:
    """Return the checkpoint in a file; raise KeptError if there is none.

    The file has it as GET /v1/checkpoints shows it, as a line of a witness, or as a part of a proof.
    """
    try:
        document = verifier.read_proof(path)
    except verifier.Refused as refused:
        raise KeptError(f"{path} holds no checkpoint and no proof: it is not a readable JSON object.") from refused
    return parse_kept(path.name, document)


def parse_kept(place: str, document: Any) -> Kept:
    """Return the checkpoint in a JSON document; raise KeptError if there is none."""
    is_proof = isinstance(document, dict) and "checkpoint" in document and isinstance(document["checkpoint"], dict)
    checkpoint = document["checkpoint"] if is_proof else document
    try:
        row, heads = _parse_checkpoint(checkpoint)
    except (KeyError, TypeError, ValueError) as error:
        raise KeptError(f"{place} holds no checkpoint and no proof: docs/PROOF.md has both forms.") from error
    return Kept(place, row, heads, document if is_proof else None)


def read_line(place: str, line: str) -> Kept:
    """Return the checkpoint in a line of a witness; raise KeptError if there is none."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KeptError(f"{place} holds no checkpoint: it is no JSON.") from error
    return parse_kept(place, document)


def _parse_checkpoint(members: Any) -> tuple[CheckpointRow, list[LaneHead]]:
    if not isinstance(members, dict) or set(members) != _NAMES or not isinstance(members["lanes"], list):
        raise ValueError("not a checkpoint's members")
    heads = []
    for lane in members["lanes"]:
        if not isinstance(lane, dict) or set(lane) != _LANE_NAMES:
            raise ValueError("not a lane's members")
        number, first_seq, next_seq = (_parse_number(lane[name]) for name in ("lane", "first_seq", "next_seq"))
        heads.append(
            LaneHead(number, first_seq, next_seq, _parse_hash(lane["head"]), _parse_hash(lane["records_root"]))
        )
    row = CheckpointRow(
        _parse_number(members["checkpoint"]),
        _parse_hash(members["previous_hash"]),
        _parse_hash(members["root"]),
        _parse_number(members["signed_time"]),
        str(members["key_id"]),
        bytes.fromhex(members["signature"]),
    )
    return row, sorted(heads)


def _parse_number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("not a number of 63 bits")
    return value


def _parse_hash(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) != HEX_CHARACTERS:
        raise ValueError("not 32 bytes in hex")
    return bytes.fromhex(text)


def find_genuineness_faults(kept: Kept, public_key: bytes | None, keys: Mapping[str, bytes]) -> list[str]:
    """Return why a kept checkpoint is not genuine: its root, its signature or its proof does not hold.

    `public_key`: the raw key that must have signed; None for one of `keys`, the raw keys that audit remembers, by id.
    """
    key = public_key or keys.get(kept.row.key_id)
    if key is None:
        return [f"It was signed by the key {kept.row.key_id}, which audit does not remember: name it by --public-key."]
    if kept.row.root != compute_root(make_lane_leaves(kept.heads)):
        return ["Its root is not that of its lanes."]
    try:
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(kept.row.signature, make_signed_bytes(kept.row, kept.heads))
        if kept.proof is not None:
            verifier.verify(kept.proof, public)
    except InvalidSignature:
        return ["Its signature is not that of the key."]
    except verifier.Refused as refused:
        return [f"The proof does not hold. {refused}"]
    return []


def get_record_place(proof: Mapping[str, Any]) -> tuple[int, int, bytes]:
    """Return lane, seq and hash of the record that a verified proof proves."""
    record = proof["record"]
    previous_hash = bytes.fromhex(proof["previous_hash"])
    return record["lane"], record["seq"], sha256(previous_hash + rfc8785.dumps(record)).digest()
