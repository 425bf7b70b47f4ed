"""Every named query begins with a sentence, is used, and can be prepared by Postgres against the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import psycopg
import pytest
from psycopg import Connection

from db.queries import FOLDER, SCHEMA, Schema, load
from runtime.settings import REPOSITORY_ROOT

FILES: Final = sorted(FOLDER.glob("*.sql"))
# (stem, the schema that it is loaded for, name)
QUERIES: Final[list[tuple[str, Schema | None, str]]] = [
    (path.stem, schema, name)
    for path in FILES
    for schema in (get_args(Schema) if SCHEMA in path.read_text() else (None,))
    for name in load(path.stem, schema)
]
IDS: Final = [".".join(filter(None, query)) for query in QUERIES]

# PREPARE does not accept these commands: the test below runs them, and for a COPY it selects the columns.
UNPREPARED: Final = ("ANALYZE", "COPY", "LISTEN", "SET", "LOCK")

PLACEHOLDER: Final = re.compile(r"%(?:\((?P<name>\w+)\)[sbt]|(?P<percent>%)|(?P<other>.))", re.DOTALL)


def numbered(query: str) -> str:
    """Return the query as PREPARE takes it: %(name)s becomes $n, the same name the same n, and %% becomes %."""
    numbers: dict[str, int] = {}

    def place(match: re.Match[str]) -> str:
        assert match["other"] is None, f"{match[0]!r} is no named placeholder"
        if match["percent"]:
            return "%"
        return f"${numbers.setdefault(match['name'], len(numbers) + 1)}"

    return PLACEHOLDER.sub(place, query)


def statement(query: str) -> str:
    """Return the query without its comments."""
    return "\n".join(line for line in query.splitlines() if not line.lstrip().startswith("--")).strip()


@pytest.fixture(scope="module")
def connection(stack: Any, template: str) -> Iterator[Connection[Any]]:
    """Yield one connection to the template database, because preparing changes nothing."""
    dsn = psycopg.conninfo.make_conninfo(stack.postgres_dsn, dbname=template)
    with psycopg.connect(dsn, autocommit=True) as found:
        yield found


@pytest.mark.parametrize(("stem", "schema", "name"), QUERIES, ids=IDS)
def test_postgres_prepares_it(connection: Connection[Any], stem: str, schema: Schema | None, name: str) -> None:
    query = statement(load(stem, schema)[name])
    if query.startswith("COPY"):
        relation, columns = re.match(r"COPY ([\w.]+) \(([\w\s,]+)\)", query).groups()  # type: ignore[union-attr]
        connection.execute(f"SELECT {columns} FROM {relation} LIMIT 0".encode())  # noqa: S608
    elif query.startswith(UNPREPARED):
        with connection.transaction(force_rollback=True):
            connection.execute(query.encode())
    else:
        with connection.transaction(force_rollback=True):
            connection.execute(f"PREPARE named AS {numbered(query)}".encode())
            connection.execute("DEALLOCATE named")


@pytest.mark.parametrize(("stem", "schema", "name"), QUERIES, ids=IDS)
def test_it_begins_with_a_sentence(stem: str, schema: Schema | None, name: str) -> None:
    query = load(stem, schema)[name]
    first, *_ = query.splitlines()
    assert re.match(r"-- \S", first), "a comment comes first"
    comment = []
    for line in query.splitlines():
        if not line.startswith("--"):
            break
        comment.append(line.removeprefix("--").strip())
    assert " ".join(comment).rstrip().endswith("."), "the comment is a sentence"
    assert ";" not in statement(query), "one statement, without a semicolon"


def test_every_query_is_used() -> None:
    # A use is the query's quoted name, in db/ or where it is passed to a function of db/.
    packages = ("api", "cli", "db", "ops", "producers", "runtime", "streams", "tools")
    sources = "".join(path.read_text() for top in packages for path in (REPOSITORY_ROOT / top).rglob("*.py"))
    assert [(stem, name) for stem, _, name in QUERIES if f'"{name}"' not in sources] == []


def test_queries_are_run_by_db_alone() -> None:
    tops = ("api", "cli", "domain", "ops", "producers", "runtime", "streams", "tools")
    askers = [
        str(path)
        for top in tops
        for path in Path(REPOSITORY_ROOT / top).rglob("*.py")
        if "db.queries" in path.read_text()
    ]
    assert askers == []


def test_the_same_query_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.queries.FOLDER", tmp_path)
    (tmp_path / "twice_named.sql").write_text("-- name: one\n-- A.\nSELECT 1\n\n-- name: one\n-- B.\nSELECT 2\n")
    with pytest.raises(ValueError, match="names a query twice"):
        load("twice_named")


def test_a_file_with_a_schema_is_loaded_for_a_prover_and_no_other_file_is() -> None:
    assert "UPDATE audit.break" in load("breaks", "audit")["resolve_breaks"]
    assert "UPDATE reconciliation.break" in load("breaks", "reconciliation")["resolve_breaks"]
    with pytest.raises(ValueError, match=r"breaks\.sql is for a prover's schema"):
        load("breaks")
    with pytest.raises(ValueError, match=r"audit\.sql is for no prover's schema"):
        load("audit", "audit")
