"""Brings a database to the schema: roles, then each file of db/migrations/ once, in order of its name."""

from hashlib import sha256
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connections import DatabaseError
from domain.errors import LedgerlineError

FOLDER: Final = Path(__file__).resolve().parent
MIGRATIONS: Final = FOLDER / "migrations"

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS public.ledgerline_migration (
    name text PRIMARY KEY, digest text NOT NULL, applied_time timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(LedgerlineError):
    """The database was migrated by other files than these."""


def _run_file(connection: psycopg.Connection[tuple[object, ...]], path: Path) -> None:
    connection.execute(path.read_text())


def ensure_database(dsn: str) -> None:
    """Create the database that the DSN names, where the server has none of that name."""
    name = str(conninfo_to_dict(dsn).get("dbname") or "ledgerline")
    try:
        with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return  # another migration made it between the two statements, or at the same moment
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached to migrate: {str(error).strip().splitlines()[-1]}") from error


def migrate(dsn: str) -> list[str]:
    """Apply what is missing, each file in a transaction of its own; returns the names applied.

    Raises MigrationError where an applied file has since been edited, where the database has a migration that this
    release does not know, and where a file fails: it then leaves nothing behind, and those before it stand.
    """
    ensure_database(dsn)
    applied: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('ledgerline.migrate'))")
        _run_file(connection, FOLDER / "roles.sql")
        connection.execute(_TABLE)
        done: dict[str, str] = dict(
            connection.execute("SELECT name, digest FROM public.ledgerline_migration").fetchall()
        )
        paths = sorted(MIGRATIONS.glob("*.sql"))
        newer = done.keys() - {path.name for path in paths}
        if newer:
            raise MigrationError(
                f"The database has the migration {max(newer)}, which this release does not know: use a later release."
            )
        for path in paths:
            digest = sha256(path.read_bytes()).hexdigest()
            if path.name in done:
                if done[path.name] != digest:
                    raise MigrationError(
                        f"Migration {path.name} was edited after it was applied: add a new one instead."
                    )
                continue
            _apply(connection, path, digest)
            applied.append(path.name)
    return applied


def _apply(connection: psycopg.Connection[tuple[object, ...]], path: Path, digest: str) -> None:
    try:
        with connection.transaction():
            _run_file(connection, path)
            connection.execute(
                "INSERT INTO public.ledgerline_migration (name, digest) VALUES (%s, %s)", (path.name, digest)
            )
    except psycopg.Error as error:
        cause = str(error).strip().splitlines()[0]
        raise MigrationError(f"Migration {path.name} failed and left nothing behind: {cause}.") from error
