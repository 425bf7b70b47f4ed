"""Migrates a database to the schema: roles, each file of db/migrations/ once in order of its name, then rights.

Roles and rights are applied every time, because a copy of the database has neither.

An *expand* migration (0002_expand_...) only adds, so the previous release keeps working. It may be applied at any time,
while all services run. A *contract* migration (0003_contract_...) removes what only older releases use. Its first line
is `-- Needs: 0.3.0`, with the oldest release that works without the removed things. It is applied only on request, and
only if no session of an older release is connected. docs/UPGRADING.md describes the whole procedure.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connections import DatabaseError
from domain.errors import LedgerlineError
from runtime.release import parse_version

FOLDER: Final = Path(__file__).resolve().parent
MIGRATIONS: Final = FOLDER / "migrations"

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS public.ledgerline_migration (
    name text PRIMARY KEY, digest text NOT NULL, applied_time timestamptz NOT NULL DEFAULT now()
)
"""


_CONTRACT: Final = re.compile(r"\d{4}_contract_\w+\.sql")
_EXPAND: Final = re.compile(r"\d{4}_expand_\w+\.sql")
_NEEDS: Final = re.compile(r"-- Needs: (\d+\.\d+\.\d+)\n")
# ALTER TABLE waits for the table's readers, and all later queries wait for ALTER TABLE: so it gives up and tries again.
LOCK_SECONDS_MAX: Final = 2
TRIES: Final = 15
_PAUSE_SECONDS: Final = 1.0

# A session's application_name has its role and its release (db.connections); in release 0.1.0 it has only the role.
_SESSIONS: Final = r"""
SELECT DISTINCT
    split_part(application_name, ' ', 1) AS role,
    coalesce(nullif(split_part(application_name, ' ', 2), ''), '0.1.0') AS release
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'ledgerline\_%'
"""


class MigrationError(LedgerlineError):
    """The database was migrated with other files than this release has, or a migration cannot be applied now."""


@dataclass
class Migrated:
    """The result of `migrate`, as names of files."""

    applied: list[str] = field(default_factory=list)
    contracts_left: list[str] = field(default_factory=list)
    """Contract migrations that were left out because they were not requested."""


def _run_file(connection: psycopg.Connection[tuple[object, ...]], path: Path) -> None:
    connection.execute(path.read_text())


def ensure_database(dsn: str) -> None:
    """Create the database that the DSN names, if the server has none of that name."""
    name = str(conninfo_to_dict(dsn).get("dbname") or "ledgerline")
    try:
        with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return  # another migration created it between the two statements, or at the same moment
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached to migrate: {str(error).strip().splitlines()[-1]}") from error


def migrate(dsn: str, *, contract: bool = False) -> Migrated:
    """Apply the missing migrations, each file in a transaction of its own; contract migrations only with `contract`.

    Raise MigrationError if an applied file was edited later, if the database has a contract migration that this release
    does not know, if a session is connected whose release a contract migration would break, or if a file fails. A file
    that fails changes nothing, and the files before it stay applied.
    """
    ensure_database(dsn)
    done = Migrated()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('ledgerline.migrate'))")
        _run_file(connection, FOLDER / "roles.sql")
        connection.execute(_TABLE)
        known: dict[str, str] = dict(
            connection.execute("SELECT name, digest FROM public.ledgerline_migration").fetchall()
        )
        paths = sorted(MIGRATIONS.glob("*.sql"))
        _refuse_later(known.keys() - {path.name for path in paths})
        for path in paths:
            digest = sha256(path.read_bytes()).hexdigest()
            if path.name in known:
                if known[path.name] != digest:
                    raise MigrationError(
                        f"Migration {path.name} was edited after it was applied: add a new one instead."
                    )
                continue
            if _CONTRACT.fullmatch(path.name):
                if not contract:
                    done.contracts_left.append(path.name)
                    continue
                _refuse_older_sessions(connection, path)
            _apply(connection, path, digest)
            done.applied.append(path.name)
        _run_file(connection, FOLDER / "rights.sql")
    return done


def _refuse_later(unknown: Iterable[str]) -> None:
    """Raise MigrationError if a later release removed something from this database.

    Additions of a later release do no harm, and a return to this release must be possible after them.
    """
    gone = [name for name in unknown if not _EXPAND.fullmatch(name)]
    if gone:
        raise MigrationError(
            f"The database has the migration {max(gone)}, which this release does not know: use a later release."
        )


def _refuse_older_sessions(connection: psycopg.Connection[Any], path: Path) -> None:
    match = _NEEDS.match(path.read_text())
    if match is None:
        raise MigrationError(f"Migration {path.name} must begin with the release that it needs: -- Needs: 1.2.3.")
    older = sorted(
        f"{role} {version}"
        for role, version in connection.execute(_SESSIONS)
        if parse_version(version) < parse_version(match[1])
    )
    if older:
        raise MigrationError(
            f"Migration {path.name} needs release {match[1]} everywhere, and these are connected: {', '.join(older)};"
            " stop or upgrade them, then ask for it again."
        )


def _apply(connection: psycopg.Connection[Any], path: Path, digest: str) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'")
                _run_file(connection, path)
                connection.execute(
                    "INSERT INTO public.ledgerline_migration (name, digest) VALUES (%s, %s)", (path.name, digest)
                )
        except psycopg.errors.LockNotAvailable as error:
            if attempt == TRIES:
                raise MigrationError(
                    f"Migration {path.name} did not get its locks in {TRIES} tries of {LOCK_SECONDS_MAX} s: find the"
                    " transaction that stays open (pg_stat_activity), end it, and try again."
                ) from error
            time.sleep(_PAUSE_SECONDS)
        except psycopg.Error as error:
            cause = str(error).strip().splitlines()[0]
            raise MigrationError(f"Migration {path.name} failed and left nothing behind: {cause}.") from error
        else:
            return
