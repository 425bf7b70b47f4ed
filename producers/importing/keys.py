"""Idempotency keys that follow from the content of a transaction, so that a second import posts nothing twice.

docs/decisions/0025-keys-of-imported-rows.md has the reasons. Neither the file's name nor a line number is in a key.
"""

import re
from collections import Counter
from hashlib import sha256
from typing import Any, Final

from domain.fingerprint import make_canonical_json
from producers.importing.addresses import normalize_text
from producers.importing.model import ImportingError

LEDGER_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DIGEST_CHARACTERS: Final = 32


class KeyMaker:
    """Makes the keys of one import: a digest of the content, and the ordinal among equal contents.

    The order of a file does not matter: equal contents have the same account and day, and get the ordinals 1 to n in
    any order. A ledger's name, if one is given, is a part of every key.
    """

    def __init__(self, ledger_name: str | None = None) -> None:
        if ledger_name is not None and not LEDGER_NAME_PATTERN.fullmatch(ledger_name):
            raise ImportingError(
                f"The ledger name {ledger_name!r} must have 1 to 64 letters, digits, dots, - or _: give --name."
            )
        self._prefix = "import" if ledger_name is None else f"import:{ledger_name}"
        self._seen: Counter[str] = Counter()

    def counted(self, content: dict[str, Any]) -> str:
        """Return the key of the next transaction with this content: JSON without floats and with ASCII keys."""
        digest = self._compute_digest(content)
        self._seen[digest] += 1
        return self._make_key(digest, self._seen[digest])

    def make_named(self, identity: dict[str, Any]) -> str | None:
        """Return the key of the transaction with this identity from the source, or None if the identity repeats."""
        digest = self._compute_digest(identity)
        self._seen[digest] += 1
        return self._make_key(digest, 1) if self._seen[digest] == 1 else None

    def _compute_digest(self, content: dict[str, Any]) -> str:
        return sha256(make_canonical_json(_make_plain(content))).hexdigest()[:_DIGEST_CHARACTERS]

    def _make_key(self, digest: str, ordinal: int) -> str:
        return f"{self._prefix}:{digest}:{ordinal}"


def _make_plain(value: Any) -> Any:
    """Return the same value with each text in NFC and its white space as single spaces."""
    if isinstance(value, str):
        return " ".join(normalize_text(value).split())
    if isinstance(value, dict):
        return {name: _make_plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_make_plain(member) for member in value]
    return value
