"""One connection to Postgres that is kept, and replaced after it broke."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from db.connections import TRANSIENT, connect

# A service that is suspended in a transaction (SIGSTOP, a paused machine) keeps lanes locked, and another worker waits
# for them. A service that runs is never idle in a transaction for as long as a second.
IDLE_IN_TRANSACTION_SECONDS_MAX: Final = 15.0
# Longer than the lock timeout, and shorter than the longest allowed stall of a worker (stall_seconds_max).
SILENCE_SECONDS_MAX: Final = 30.0


class KeptConnection:
    """An autocommit connection as one role. After an outage, the next use opens a new one. Not thread-safe.

    Its methods raise DatabaseError if Postgres is unreachable and PostgresSilent if Postgres does not answer for
    SILENCE_SECONDS_MAX. psycopg's errors pass unchanged.
    """

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._connection: Connection[Any] | None = None
        self._in_transaction: Connection[Any] | None = None

    def _prepare(self, connection: Connection[Any]) -> None:
        """Prepare a new connection before its first use; for subclasses."""

    def _open(self) -> Connection[Any]:
        """Return the connection, for statements inside `transaction` or `statements`."""
        if self._in_transaction is not None:
            if self._in_transaction is not self._connection or self._in_transaction.closed:
                # A new connection would commit the remaining statements without the earlier ones.
                raise psycopg.InterfaceError("the connection was lost in the midst of a transaction")
            return self._in_transaction
        if self._connection is None or self._connection.closed:
            connection = connect(
                self._dsn,
                self._role,
                autocommit=True,
                idle_in_transaction_seconds=IDLE_IN_TRANSACTION_SECONDS_MAX,
                silence_seconds_max=SILENCE_SECONDS_MAX,
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()  # else the next use would take the half-prepared connection
                raise
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def statements(self) -> Iterator[Connection[Any]]:
        """Yield the connection, for statements that need no common transaction; close it after a transient error."""
        try:
            yield self._open()
        except TRANSIENT:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """Run one transaction in which each statement has its own snapshot (read committed). Do not nest."""
        with self.statements() as connection:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                # An earlier rollback failed, and psycopg only warned. The old transaction is still open: a new one in
                # it would be a savepoint and would commit nothing.
                self.close()
            self._in_transaction = current = self._open()
            try:
                with current.transaction():
                    yield current
            finally:
                self._in_transaction = None
