"""Empty databases, and the owner's connection to a migrated one."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo

from ops.embedded.stack import Endpoints


@pytest.fixture
def new_dsn(stack: Endpoints) -> Iterator[Callable[[], str]]:
    """Makes DSNs of databases that do not exist yet, and drops these databases at the end."""
    names: list[str] = []

    def make() -> str:
        names.append(f"test_{uuid.uuid4().hex[:12]}")
        return make_conninfo(stack.postgres_dsn, dbname=names[-1])

    yield make
    with psycopg.connect(make_conninfo(stack.postgres_dsn, dbname="postgres"), autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def owner(database: str) -> Iterator[Connection[Any]]:
    """The owner's connection to a fresh database, in autocommit."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection
