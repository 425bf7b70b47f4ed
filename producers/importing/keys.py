"""Idempotency keys that follow from what a transaction says, so that importing twice posts nothing twice."""

import re
from collections import Counter
from hashlib import sha256
from typing import Any, Final

from domain.fingerprint import canonical_json
from producers.importing.model import ImportingError

LEDGER_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DIGEST_CHARACTERS: Final = 32


class KeyMaker:
    """Makes the keys of one import: the ledger's name, a digest of the content, and the count of equal contents before.

    A key therefore stays the same when other transactions are added, removed or moved, and equal transactions of one
    ledger get keys of their own.
    """

    def __init__(self, ledger_name: str) -> None:
        if not LEDGER_NAME_PATTERN.fullmatch(ledger_name):
            raise ImportingError(
                f"The ledger name {ledger_name!r} must have 1 to 64 letters, digits, dots, - or _: give --name."
            )
        self._ledger_name = ledger_name
        self._seen: Counter[str] = Counter()

    def counted(self, content: dict[str, Any]) -> str:
        """The key of the next transaction with this content: JSON without floats, keys ASCII."""
        digest = self._digest(content)
        self._seen[digest] += 1
        return self._key(digest, self._seen[digest])

    def named(self, identity: dict[str, Any]) -> str | None:
        """The key of the transaction that the source itself gives this identity; None where it was given before."""
        digest = self._digest(identity)
        self._seen[digest] += 1
        return self._key(digest, 1) if self._seen[digest] == 1 else None

    def _digest(self, content: dict[str, Any]) -> str:
        return sha256(canonical_json(content)).hexdigest()[:_DIGEST_CHARACTERS]

    def _key(self, digest: str, count: int) -> str:
        return f"import:{self._ledger_name}:{digest}:{count}"


def ledger_name_of(stem: str) -> str:
    """The name that a ledger has where none is given: its file's, foreign characters as hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:64] or "ledger"
