"""The migrations add up to db/schema.sql, each runs once, and they refuse a database that has other migrations."""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db import migrate as migrating
from db.connections import ROLES, DatabaseError
from db.migrate import FOLDER, MIGRATIONS, Migrated, MigrationError, ensure_database, migrate
from ops.embedded.process import wait_until
from runtime.release import VERSION
from tests import releases
from tests.migration.catalog import QUERIES, catalog

NewDsn = Callable[[], str]


def from_schema(dsn: str) -> None:
    """Make a database from db/schema.sql alone."""
    ensure_database(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute((FOLDER / "roles.sql").read_bytes())
        connection.execute((FOLDER / "schema.sql").read_bytes())
        connection.execute((FOLDER / "rights.sql").read_bytes())


def test_migrations_add_up_to_the_schema(new_dsn: NewDsn) -> None:
    migrated, made = new_dsn(), new_dsn()
    migrate(migrated)
    from_schema(made)
    with psycopg.connect(migrated) as left, psycopg.connect(made) as right:
        found, wanted = catalog(left), catalog(right)
    for kind in QUERIES:
        assert found[kind] == wanted[kind], kind
    assert len(wanted["columns"]) > 100
    assert len(wanted["triggers"]) >= 10


def test_the_comparison_notices_each_kind_of_difference(new_dsn: NewDsn) -> None:
    changes = {
        "schemas": "REVOKE USAGE ON SCHEMA audit FROM ledgerline_api",
        "relations": "ALTER TABLE ledger.balance RESET (fillfactor)",
        "columns": "ALTER TABLE ledger.unit ALTER COLUMN name DROP DEFAULT",
        "constraints": "ALTER TABLE ledger.entry DROP CONSTRAINT entry_amount_minor_check",
        "indexes": "DROP INDEX ledger.journal_settled",
        "triggers": "ALTER TABLE ledger.entry DISABLE TRIGGER entry_append_only",
        "functions": "ALTER FUNCTION ledger.books_changed() SECURITY INVOKER",
        "comments": "COMMENT ON TABLE ledger.entry IS 'other'",
        "rows": "UPDATE ledger.books_version SET version = version + 1",
    }
    assert changes.keys() == QUERIES.keys()
    dsn = new_dsn()
    from_schema(dsn)
    with psycopg.connect(dsn) as connection:
        for kind, change in changes.items():
            before = catalog(connection)
            with connection.transaction(force_rollback=True):
                connection.execute(change.encode())
                assert catalog(connection)[kind] != before[kind], kind
        for privilege in ("UPDATE", "UPDATE (hash)"):
            with connection.transaction(force_rollback=True):
                connection.execute(f"GRANT {privilege} ON ledger.journal TO ledgerline_api".encode())
                assert catalog(connection) != before, privilege


def test_what_was_released_is_never_edited(tmp_path: Path) -> None:
    released = sorted((releases.unpack(tmp_path) / "db" / "migrations").glob("*.sql"))
    assert released
    for path in released:
        assert (MIGRATIONS / path.name).read_bytes() == path.read_bytes(), path.name


def test_migrations_are_numbered_without_gaps_and_say_what_they_do() -> None:
    names = sorted(path.name for path in MIGRATIONS.iterdir())
    assert [name[:5] for name in names] == [f"{number:04}_" for number in range(1, len(names) + 1)]
    assert names[0] == "0001_spine.sql"
    for name in names[1:]:
        assert re.fullmatch(r"\d{4}_(expand|contract)_\w+\.sql", name), name
        if "_contract_" in name:
            assert re.match(r"-- Needs: \d+\.\d+\.\d+\n", (MIGRATIONS / name).read_text()), name


def test_migrating_twice_does_nothing(new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    assert migrate(dsn).applied == sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    with psycopg.connect(dsn) as connection:
        before = catalog(connection)
    assert migrate(dsn).applied == []
    with psycopg.connect(dsn) as connection:
        assert catalog(connection) == before
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^ledgerline_'")}
    assert roles >= set(ROLES)


def test_migrations_at_once_apply_each_file_once(new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    with ThreadPoolExecutor(4) as threads:
        applied = [name for done in threads.map(migrate, [dsn] * 4) for name in done.applied]
    assert applied == sorted(path.name for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations in place of the project's."""
    monkeypatch.setattr(migrating, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a integer);")
    return tmp_path


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_an_edited_migration_is_refused(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    assert migrate(dsn).applied == ["0001_first.sql"]
    (files / "0001_first.sql").write_text("CREATE TABLE first (a bigint);")
    with pytest.raises(MigrationError, match=r"0001_first\.sql was edited after it was applied"):
        migrate(dsn)


def test_a_database_of_a_later_release_is_refused(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    (files / "0002_second.sql").write_text("CREATE TABLE second (a integer);")
    assert migrate(dsn).applied == ["0001_first.sql", "0002_second.sql"]
    (files / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match=r"0002_second\.sql, which this release does not know"):
        migrate(dsn)


def test_what_a_later_release_added_is_no_hindrance_to_going_back(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    later = files / "0002_expand_second.sql"
    later.write_text("CREATE TABLE second (a integer);")
    assert migrate(dsn).applied == ["0001_first.sql", "0002_expand_second.sql"]
    later.unlink()
    assert migrate(dsn) == Migrated()
    assert "second" in tables(dsn)


def test_contracts_are_applied_only_when_asked_for(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    (files / "0002_contract_first.sql").write_text("-- Needs: 0.2.0\nDROP TABLE first;")
    (files / "0003_expand_third.sql").write_text("CREATE TABLE third (a integer);")
    assert migrate(dsn) == Migrated(["0001_first.sql", "0003_expand_third.sql"], ["0002_contract_first.sql"])
    assert tables(dsn) == {"first", "third", "ledgerline_migration"}
    assert migrate(dsn, contract=True) == Migrated(["0002_contract_first.sql"], [])
    assert tables(dsn) == {"third", "ledgerline_migration"}


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("ledgerline_posting", "ledgerline_posting 0.1.0"),
        ("ledgerline_api 0.9.9", "ledgerline_api 0.9.9"),
        ("ledgerline_api 0.10.0", None),
        (f"ledgerline_relay {VERSION}", f"ledgerline_relay {VERSION}"),
        ("psql", None),
    ],
)
def test_contracts_wait_for_sessions_of_older_releases(
    files: Path, new_dsn: NewDsn, name: str, older: str | None
) -> None:
    dsn = new_dsn()
    migrate(dsn)
    (files / "0002_contract_first.sql").write_text("-- Needs: 0.10.0\nDROP TABLE first;")
    with psycopg.connect(dsn, application_name=name):
        if older is None:
            assert migrate(dsn, contract=True).applied == ["0002_contract_first.sql"]
            return
        with pytest.raises(MigrationError, match=f"needs release 0.10.0 everywhere, and these are connected: {older};"):
            migrate(dsn, contract=True)
        assert "first" in tables(dsn)
    with psycopg.connect(dsn) as connection:
        assert wait_until(
            lambda: (
                connection.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", (name,)).rowcount == 0
            ),
            timeout_seconds=30,
        )
    assert migrate(dsn, contract=True).applied == ["0002_contract_first.sql"]


def test_a_contract_that_does_not_say_what_it_needs_is_refused(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    (files / "0002_contract_first.sql").write_text("DROP TABLE first;")
    with pytest.raises(MigrationError, match="must begin with the release that it needs"):
        migrate(dsn, contract=True)
    assert "first" in tables(dsn)


def test_a_migration_waits_for_locks_a_little_at_a_time(
    files: Path, new_dsn: NewDsn, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = new_dsn()
    migrate(dsn)
    (files / "0002_expand_first.sql").write_text("ALTER TABLE first ADD COLUMN b integer;")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT * FROM first")
        with monkeypatch.context() as patch:
            patch.setattr(migrating, "TRIES", 2)
            patch.setattr(migrating, "LOCK_SECONDS_MAX", 1)
            with pytest.raises(MigrationError, match="did not get its locks in 2 tries of 1 s"):
                migrate(dsn)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(migrate, dsn)
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            with psycopg.connect(dsn, autocommit=True) as other:
                assert wait_until(lambda: other.execute(waits).rowcount == 1, timeout_seconds=60)
                # A query that queues behind the waiting ALTER runs as soon as the ALTER gives up.
                other.execute("SET statement_timeout = '30s'")
                other.execute("SELECT * FROM first")
            reader.rollback()
            assert waiting.result(timeout=120).applied == ["0002_expand_first.sql"]


def test_a_migration_that_fails_leaves_nothing_and_can_be_mended(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    second = files / "0002_second.sql"
    second.write_text("CREATE TABLE second (a integer); CREATE TABLE first (a integer);")
    with pytest.raises(MigrationError, match=r"0002_second\.sql failed and left nothing behind: .*already exists"):
        migrate(dsn)
    assert tables(dsn) == {"first", "ledgerline_migration"}
    second.write_text("CREATE TABLE second (a integer);")
    assert migrate(dsn).applied == ["0002_second.sql"]
    assert tables(dsn) == {"first", "second", "ledgerline_migration"}


def test_postgres_away_is_told(new_dsn: NewDsn) -> None:
    parts = {**conninfo_to_dict(new_dsn()), "port": 1}
    with pytest.raises(DatabaseError, match="Postgres cannot be reached to migrate"):
        migrate(psycopg.conninfo.make_conninfo(**parts))


# squawk asks for these, and `migrate` does them for every file: time limits for locks, and one transaction for all.
_DONE_BY_MIGRATE = "require-lock-timeout,require-statement-timeout,prefer-robust-stmts"


def squawk(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Run squawk: it finds migrations that lock or rewrite tables in use. Its exit code is 1 if it finds any."""
    return subprocess.run(
        [
            Path(sys.executable).parent / "squawk",
            "--assume-in-transaction",
            "--pg-version=15.0",
            f"--exclude={_DONE_BY_MIGRATE}",
            *paths,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_added_blocks_nobody(tmp_path: Path) -> None:
    found = squawk(*sorted(MIGRATIONS.glob("*_expand_*.sql")))
    assert found.returncode == 0, found.stdout
    for number, statement in enumerate(
        (
            "ALTER TABLE access.api_key ADD COLUMN places integer NOT NULL;",
            "ALTER TABLE ledger.journal ADD CHECK (seq >= 0);",
            "CREATE INDEX journal_type ON ledger.journal (type);",
            "ALTER TABLE access.api_key RENAME COLUMN name TO title;",
            "ALTER TABLE ledger.entry ALTER COLUMN amount_minor TYPE numeric;",
        )
    ):
        path = tmp_path / f"{number}.sql"
        path.write_text(statement)
        assert squawk(path).returncode == 1, statement
