"""Keys and checkpoints: what is signed, and with what. Ed25519 is RFC 8032."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from domain.checkpoints import CheckpointRow, LaneHead, checkpoint_members, key_id_of, lane_leaves, public_pem
from domain.errors import LedgerlineError
from domain.merkle import root_of

KEY_FILE: Final = "audit-key.pem"
GENESIS: Final = bytes(32)


class KeyFileError(LedgerlineError):
    """The key file is missing, unreadable, or there already."""


class SigningKey(NamedTuple):
    """The private key of audit, with what the public may know of it."""

    private: Ed25519PrivateKey
    public_raw: bytes
    """32 bytes."""
    key_id: str


def public_file(key_file: Path) -> Path:
    """Where the public half of a key file lies."""
    return key_file.with_suffix(".pub.pem")


def make_key(key_file: Path) -> SigningKey:
    """Make a key pair: the private PEM for its owner's eyes only (0600), the public one beside it.

    An existing key is never overwritten: what it signed could no longer be told from what it did not.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError as error:
        raise KeyFileError(f"{key_file} exists: keep it, or name another file.") from error
    except OSError as error:
        raise KeyFileError(f"The key file {key_file} cannot be written: {error.strerror}.") from error
    key = read_key(key_file)
    public_file(key_file).write_bytes(public_pem(key.public_raw))
    return key


def read_key(key_file: Path) -> SigningKey:
    """The private key in a PEM file."""
    try:
        private = load_pem_private_key(key_file.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise KeyFileError(f"There is no key file {key_file}: make one with `ledgerline audit keygen`.") from error
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"The key file {key_file} holds no readable private key in PEM.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"The key in {key_file} is not Ed25519: make one with `ledgerline audit keygen`.")
    public_raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return SigningKey(private, public_raw, key_id_of(public_raw))


def signed_bytes(row: CheckpointRow, lanes: Sequence[LaneHead]) -> bytes:
    """What is signed: the canonical JSON (RFC 8785) of all members but the signature."""
    return rfc8785.dumps(checkpoint_members(row, lanes))


def sign(
    number: int, previous_hash: bytes, lanes: Sequence[LaneHead], signed_time: int, key: SigningKey
) -> CheckpointRow:
    """The signed checkpoint over these heads; `signed_time` in microseconds since 1970."""
    unsigned = CheckpointRow(number, previous_hash, root_of(lane_leaves(lanes)), signed_time, key.key_id, b"")
    return unsigned._replace(signature=key.private.sign(signed_bytes(unsigned, lanes)))


def checkpoint_faults(
    row: CheckpointRow, lanes: Sequence[LaneHead], previous: tuple[CheckpointRow, Sequence[LaneHead]] | None, key: bytes
) -> list[str]:
    """What is wrong with a checkpoint in itself and behind the previous one; `key` is the raw public key."""
    wrong = []
    if row.root != root_of(lane_leaves(lanes)):
        wrong.append("Its root is not that of its lanes.")
    if row.previous_hash != (GENESIS if previous is None else sha256(signed_bytes(*previous)).digest()):
        wrong.append("It does not follow from the checkpoint before it.")
    ends = {} if previous is None else {head.lane: head.next_seq for head in previous[1]}
    if any(head.first_seq != ends.pop(head.lane, 0) for head in lanes) or ends:
        wrong.append("Its lanes do not go on where the checkpoint before it ended.")
    if row.key_id != key_id_of(key):
        return [*wrong, f"It was signed by another key, {row.key_id}."]
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(row.signature, signed_bytes(row, lanes))
    except InvalidSignature:
        wrong.append("Its signature is not that of the key.")
    return wrong


def checkpoint_event(row: CheckpointRow, lanes: Sequence[LaneHead]) -> dict[str, Any]:
    """The Avro record of a checkpoint."""
    return {**row._asdict(), "lanes": [head._asdict() for head in sorted(lanes)]}
