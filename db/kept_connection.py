"""One connection to Postgres that is kept, and made anew after it broke."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from db.connections import TRANSIENT, connect

# A service that sleeps in a transaction (SIGSTOP, a paused machine) holds lanes, which another worker waits for; awake
# it is never idle there for a second.
IDLE_IN_TRANSACTION_SECONDS_MAX: Final = 15.0
# Longer than a lock is waited for, and shorter than a worker may stand still (stall_seconds_max).
SILENCE_SECONDS_MAX: Final = 30.0


class KeptConnection:
    """An autocommit connection as one role; what uses it next after an outage gets a new one. Not safe for threads.

    Raises DatabaseError where Postgres is away, PostgresSilent where it does not answer for SILENCE_SECONDS_MAX, and
    psycopg's errors as they are.
    """

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._connection: Connection[Any] | None = None
        self._in_transaction: Connection[Any] | None = None

    def _prepare(self, connection: Connection[Any]) -> None:
        """What a subclass does to each new connection before anyone uses it."""

    def _open(self) -> Connection[Any]:
        """The connection, for statements inside `transaction` or `statements`."""
        if self._in_transaction is not None:
            if self._in_transaction is not self._connection or self._in_transaction.closed:
                # On a new connection the rest would stand alone, and be committed without what came before.
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
                connection.close()  # half prepared, it would pass for a good one
                raise
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Let go of the connection; what comes next makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def statements(self) -> Iterator[Connection[Any]]:
        """The connection for statements that may each stand alone; after an outage it is let go of."""
        try:
            yield self._open()
        except TRANSIENT:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """One transaction, each statement with a snapshot of its own (read committed); not to be nested."""
        with self.statements() as connection:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                # A rollback failed, of which psycopg only warns: a savepoint in that transaction would commit nothing.
                self.close()
            self._in_transaction = current = self._open()
            try:
                with current.transaction():
                    yield current
            finally:
                self._in_transaction = None
