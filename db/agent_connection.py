"""The one connection of a proving agent, made anew after it broke."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg import Connection
from psycopg.types.json import set_json_dumps, set_json_loads

from db.connections import connect


class AgentConnection:
    """A connection as one role. Not safe for threads."""

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._connection: Connection[Any] | None = None

    def _open(self) -> Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, self._role, autocommit=True)
            set_json_dumps(orjson.dumps, self._connection)
            set_json_loads(orjson.loads, self._connection)
        return self._connection

    def close(self) -> None:
        """Let go of the connection; the next transaction makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """One transaction, each statement with a snapshot of its own (read committed)."""
        try:
            connection = self._open()
            with connection.transaction():
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self.close()
            raise


@contextmanager
def snapshot(dsn: str, role: str) -> Iterator[Connection[Any]]:
    """A connection that sees one unchanging state of the database (repeatable read, read only) until it is let go."""
    with connect(dsn, role) as connection:
        set_json_loads(orjson.loads, connection)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection
