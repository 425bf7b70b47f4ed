"""Ed25519 keys (RFC 8032) in PEM files: posting's key signs heads, and audit's key signs checkpoints."""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from domain.checkpoints import compute_key_id, make_public_pem
from domain.errors import LedgerlineError
from runtime.key_names import POSTING_KEY_FILE, get_public_file

_PUBLIC_PEM: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class KeyFileError(LedgerlineError):
    """The key file is missing or unreadable, or it exists already."""


class SigningKey(NamedTuple):
    """A private key, with its public key and its key id."""

    private: Ed25519PrivateKey
    public_raw: bytes
    """32 bytes."""
    key_id: str


def make_key(key_file: Path) -> SigningKey:
    """Make a key pair: the private PEM file with mode 0600, and the public one beside it.

    Raise KeyFileError if the file exists or cannot be written. An existing key is never overwritten: with its
    public key lost, nobody could verify what it signed.
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
    get_public_file(key_file).write_bytes(make_public_pem(key.public_raw))
    return key


def ensure_posting_key(home: Path) -> None:
    """Make the key that posting signs heads with, if the home has none."""
    if not (home / POSTING_KEY_FILE).exists():
        make_key(home / POSTING_KEY_FILE)


def read_key(key_file: Path) -> SigningKey:
    """Return the key in a private PEM file."""
    try:
        private = load_pem_private_key(key_file.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise KeyFileError(f"There is no key file {key_file}: make one with `ledgerline audit keygen`.") from error
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"The key file {key_file} holds no readable private key in PEM.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"The key in {key_file} is not Ed25519: make one with `ledgerline audit keygen`.")
    public_raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return SigningKey(private, public_raw, compute_key_id(public_raw))


def read_public_keys(path: Path) -> list[Ed25519PublicKey]:
    """Return all public keys in a PEM file, in order: the present key and the keys that signed before it."""
    try:
        keys = [load_pem_public_key(pem) for pem in _PUBLIC_PEM.findall(path.read_bytes())]
    except (OSError, ValueError) as error:
        raise KeyFileError(f"The file {path} holds no readable public keys in PEM.") from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) < len(keys):
        raise KeyFileError(f"The file {path} must hold one or more public keys, all of them Ed25519.")
    return found
