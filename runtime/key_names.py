"""Names of the key files in a home. runtime/key_files.py loads cryptography, which is slow, so the names stand here."""

from pathlib import Path
from typing import Final

AUDIT_KEY_FILE: Final = "audit-key.pem"
"""The file of the private key that audit signs checkpoints with."""
POSTING_KEY_FILE: Final = "posting-key.pem"
"""The file of the private key that posting signs heads with."""


def get_public_file(key_file: Path) -> Path:
    """Return the file of the public key that belongs to this private key's file."""
    return key_file.with_suffix(".pub.pem")


def list_key_file_names() -> set[str]:
    """Return the names of all key files that Ledgerline puts into a home."""
    key_files = [Path(name) for name in (AUDIT_KEY_FILE, POSTING_KEY_FILE)]
    return {file.name for key_file in key_files for file in (key_file, get_public_file(key_file))}
