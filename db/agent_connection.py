"""The connections of a proving agent: one that it keeps, and one that sees one snapshot of the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg import Connection
from psycopg.types.json import set_json_dumps, set_json_loads

from db.binary import register
from db.connections import connect
from db.kept_connection import KeptConnection


class AgentConnection(KeptConnection):
    """A kept connection that reads and writes JSON with orjson, and takes arrays in Postgres' binary form."""

    def _prepare(self, connection: Connection[Any]) -> None:
        set_json_dumps(orjson.dumps, connection)
        set_json_loads(orjson.loads, connection)
        register(connection)


@contextmanager
def open_snapshot(dsn: str, role: str, *, statement_seconds_max: float | None = None) -> Iterator[Connection[Any]]:
    """Open a connection that sees one snapshot of the database (repeatable read, read only) until it is closed."""
    with connect(dsn, role, statement_seconds_max=statement_seconds_max) as connection:
        set_json_loads(orjson.loads, connection)
        register(connection)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection
