"""The migrations add up to db/schema.sql, run once each, and refuse a database that is not theirs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db import migrate as migrating
from db.connections import ROLES, DatabaseError
from db.migrate import FOLDER, MIGRATIONS, MigrationError, ensure_database, migrate
from tests.migration.catalog import QUERIES, catalog

NewDsn = Callable[[], str]


def from_schema(dsn: str) -> None:
    """Make a database of db/schema.sql alone."""
    ensure_database(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute((FOLDER / "roles.sql").read_bytes())
        connection.execute((FOLDER / "schema.sql").read_bytes())


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


def test_before_the_first_release_the_spine_is_the_schema() -> None:
    # Until someone has a database to keep, schema.sql is edited and copied; from then on migrations are added.
    assert (MIGRATIONS / "0001_spine.sql").read_text() == (FOLDER / "schema.sql").read_text()


def test_names_of_migrations_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in MIGRATIONS.iterdir())
    assert [name[:5] for name in names] == [f"{number:04}_" for number in range(1, len(names) + 1)]
    assert all(name.endswith(".sql") for name in names)


def test_migrating_twice_does_nothing(new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    assert migrate(dsn) == sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    with psycopg.connect(dsn) as connection:
        before = catalog(connection)
    assert migrate(dsn) == []
    with psycopg.connect(dsn) as connection:
        assert catalog(connection) == before
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^ledgerline_'")}
    assert roles >= set(ROLES)


def test_migrations_at_once_apply_each_file_once(new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    with ThreadPoolExecutor(4) as threads:
        applied = [name for names in threads.map(migrate, [dsn] * 4) for name in names]
    assert applied == sorted(path.name for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations that stands in for the project's."""
    monkeypatch.setattr(migrating, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a integer);")
    return tmp_path


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_an_edited_migration_is_refused(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    assert migrate(dsn) == ["0001_first.sql"]
    (files / "0001_first.sql").write_text("CREATE TABLE first (a bigint);")
    with pytest.raises(MigrationError, match=r"0001_first\.sql was edited after it was applied"):
        migrate(dsn)


def test_a_database_of_a_later_release_is_refused(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    (files / "0002_second.sql").write_text("CREATE TABLE second (a integer);")
    assert migrate(dsn) == ["0001_first.sql", "0002_second.sql"]
    (files / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match=r"0002_second\.sql, which this release does not know"):
        migrate(dsn)


def test_a_migration_that_fails_leaves_nothing_and_can_be_mended(files: Path, new_dsn: NewDsn) -> None:
    dsn = new_dsn()
    second = files / "0002_second.sql"
    second.write_text("CREATE TABLE second (a integer); CREATE TABLE first (a integer);")
    with pytest.raises(MigrationError, match=r"0002_second\.sql failed and left nothing behind: .*already exists"):
        migrate(dsn)
    assert tables(dsn) == {"first", "ledgerline_migration"}
    second.write_text("CREATE TABLE second (a integer);")
    assert migrate(dsn) == ["0002_second.sql"]
    assert tables(dsn) == {"first", "second", "ledgerline_migration"}


def test_postgres_away_is_told(new_dsn: NewDsn) -> None:
    parts = {**conninfo_to_dict(new_dsn()), "port": 1}
    with pytest.raises(DatabaseError, match="Postgres cannot be reached to migrate"):
        migrate(psycopg.conninfo.make_conninfo(**parts))
