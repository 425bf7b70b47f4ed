"""API keys: `llk_<key id>_<secret>`. The secret is 256 random bits, shown once and kept as its SHA-256 only."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.rows import dict_row

from db.fetch import Pool, fetch
from db.queries import load
from domain.errors import LedgerlineError

_QUERIES: Final = load("access")
KEY_PATTERN: Final = re.compile(r"llk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
NAME_CHARACTERS_MAX: Final = 100


class AccessError(LedgerlineError):
    """A key cannot be made or revoked."""


class Scope(StrEnum):
    """What a key may do; the list is closed."""

    INTENTS_WRITE = "intents:write"
    INTENTS_READ = "intents:read"
    ACCOUNTS_READ = "accounts:read"
    JOURNAL_READ = "journal:read"
    SCHEDULES_WRITE = "schedules:write"
    SCHEDULES_READ = "schedules:read"
    OPERATIONS_READ = "operations:read"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the API knows it, without its secret. Scopes that this release does not know permit nothing."""

    key_id: str
    tenant: str
    name: str
    secret_hash: bytes
    """SHA-256 of the secret, 32 bytes."""
    scopes: frozenset[str]
    requests_per_minute: int | None
    """None if the API's setting applies."""
    expires_time: datetime | None
    """The key is invalid from this time on; None if it is valid until it is revoked."""

    def is_expired(self) -> bool:
        """Return whether the key has expired, by this process' clock."""
        return self.expires_time is not None and self.expires_time <= datetime.now(UTC)


def hash_secret(secret: str) -> bytes:
    """Return the stored hash of a secret. One round is enough, as the secret is random and long."""
    return sha256(secret.encode()).digest()


def add_key(
    connection: Connection[Any],
    tenant: str,
    name: str,
    scopes: Iterable[Scope],
    requests_per_minute: int | None = None,
    expires_time: datetime | None = None,
    *,
    done_by: str | None = None,
) -> tuple[str, str]:
    """Make a key and return (key id, the whole key). The secret cannot be shown again.

    The database records this as an operation of `done_by`, or of the login if that is None.
    """
    wanted = sorted({scope.value for scope in scopes})
    if not wanted:
        raise AccessError(f"A key without a scope can do nothing: give it some of {', '.join(Scope)}.")
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise AccessError(f"A key's name has 1 to {NAME_CHARACTERS_MAX} printable characters.")
    if requests_per_minute is not None and requests_per_minute < 1:
        raise AccessError("A key's rate limit is at least 1 request a minute.")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    values = {
        "key_id": key_id,
        "tenant": tenant,
        "name": name,
        "secret_hash": hash_secret(secret),
        "scopes": wanted,
        "requests_per_minute": requests_per_minute,
        "expires_time": expires_time,
    }
    try:
        with connection.transaction():
            connection.execute(_QUERIES["author"], {"done_by": done_by})
            connection.execute(_QUERIES["add"], values)
    except psycopg.errors.ForeignKeyViolation as error:
        raise AccessError(f"There is no tenant {tenant!r}: add it with `ledgerline tenants add {tenant}`.") from error
    return key_id, f"llk_{key_id}_{secret}"


def list_keys(connection: Connection[Any], tenant: str | None = None) -> list[dict[str, Any]]:
    """Return all keys, ended ones too, each with its rate limit and its times of creation, revocation and expiry."""
    return connection.cursor(row_factory=dict_row).execute(_QUERIES["list"], {"tenant": tenant}).fetchall()


def revoke_key(connection: Connection[Any], key_id: str, *, done_by: str | None = None) -> None:
    """Revoke a key; an API process that has it cached notices within a few seconds.

    The database records this as an operation of `done_by`, or of the login if that is None.
    """
    with connection.transaction():
        connection.execute(_QUERIES["author"], {"done_by": done_by})
        revoked = connection.execute(_QUERIES["revoke"], {"key_id": key_id}).fetchone()
    if revoked is None:
        raise AccessError(f"There is no key {key_id!r}: see `ledgerline keys list`.")


async def find_keys(pool: Pool, key_ids: Iterable[str]) -> dict[str, ApiKey]:
    """Return the keys that are neither revoked nor expired, by id; raise DatabaseError if Postgres is unreachable."""
    rows = await fetch(pool, _QUERIES["find"], {"key_ids": sorted(set(key_ids))})
    found = [ApiKey(**row | {"scopes": frozenset(row["scopes"])}) for row in rows]
    return {key.key_id: key for key in found if not key.is_expired()}


async def read_cursor_key(pool: Pool) -> bytes:
    """Return the secret that authenticates this ledger's cursors, 32 bytes.

    Raise DatabaseError if Postgres is unreachable.
    """
    rows = await fetch(pool, _QUERIES["cursor_key"], {})
    if not rows:
        raise AccessError("The table access.cursor_key is empty: restore it from a backup, or insert 32 random bytes.")
    return bytes(rows[0]["secret"])
