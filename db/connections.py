"""Connections to Postgres: one role each, bounded waits, no hung peers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from db.binary import register
from db.bounded_connection import BoundedAsyncConnection, BoundedConnection
from domain.errors import Outage
from runtime.release import VERSION

# db/roles.sql creates these roles. A service's login must be a member of the service's role.
ROLES: Final = (
    "ledgerline_owner",
    "ledgerline_posting",
    "ledgerline_relay",
    "ledgerline_api",
    "ledgerline_reconciliation",
    "ledgerline_audit",
    "ledgerline_worker",
    "ledgerline_operator",
)

Transaction: TypeAlias = Connection[Any]
"""A connection inside a transaction, as `KeptConnection.transaction` yields it, for packages that know no psycopg."""

_SILENCE_MORE_SECONDS: Final = 1.0

# Errors that pass with time: the server or the network is down, another session holds a lock, this process slept so
# long in a transaction that Postgres ended it, or the server is a standby. To psycopg the last three classes are
# internal errors, so they must be named.
TRANSIENT: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
)


class DatabaseError(Outage):
    """Postgres cannot be reached or refuses the login."""


def is_told_by_server(error: Exception) -> bool:
    """Return whether Postgres itself reported the error, such as a full disk: then the connection works."""
    return isinstance(error, psycopg.Error) and error.sqlstate is not None


class DatabaseBusy(DatabaseError):
    """Postgres is reachable but overloaded: the query took too long, or the server lacks resources."""

    cause = "server"


class StatementTooLong(DatabaseBusy):
    """Postgres ended a statement at its time limit, or at its limit for waiting for a lock."""

    cause = "statement"


class PoolBusy(DatabaseBusy):
    """No connection of the pool became free in time. That alone does not mean that Postgres is unreachable."""

    cause = "pool"


_INSUFFICIENT_RESOURCES: Final = "53"


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Turn a transient error into DatabaseError with the message `what`, or DatabaseBusy if Postgres is reachable."""
    try:
        yield
    except PoolTimeout as error:
        raise PoolBusy("No connection to Postgres got free in time.") from error
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        raise StatementTooLong("Postgres took too long for this query and ended it.") from error
    except TRANSIENT as error:
        if (error.sqlstate or "").startswith(_INSUFFICIENT_RESOURCES):
            raise DatabaseBusy("Postgres lacks resources for this query.") from error
        raise DatabaseError(what) from error


def replace_password(dsn: str, password: str) -> str:
    """Return the DSN with this password instead of its own."""
    return make_conninfo(dsn, password=password)


def _make_options(
    role: str, lock_timeout_seconds: float = 10.0, idle_in_transaction_seconds: float = 60.0
) -> dict[str, Any]:
    return {
        # JIT is off: no query of ours is worth compiling, but the planner overestimates the rows of a range of legs.
        "options": f"-c role={role} -c lock_timeout={int(lock_timeout_seconds * 1000)}"
        f" -c idle_in_transaction_session_timeout={int(idle_in_transaction_seconds * 1000)} -c timezone=UTC -c jit=off",
        # The role and the release: db.migrate checks the releases before a contract migration.
        "application_name": f"{role} {VERSION}",
        "connect_timeout": 10,
        # A peer that does not answer is detected after 10 + 3 * 5 seconds of silence; with unacknowledged data, after
        # 30 seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def _make_statement_timeout(seconds: float) -> str:
    return f" -c statement_timeout={max(1, round(seconds * 1000))}"


def connect(
    dsn: str,
    role: str,
    *,
    autocommit: bool = False,
    lock_timeout_seconds: float = 10.0,
    idle_in_transaction_seconds: float = 60.0,
    silence_seconds_max: float | None = None,
    statement_seconds_max: float | None = None,
) -> Connection[Any]:
    """Open one connection that acts as `role`; raise DatabaseError if Postgres is unreachable.

    Postgres ends a session that is idle in a transaction for `idle_in_transaction_seconds`, and releases its locks. A
    statement raises PostgresSilent if Postgres does not answer within `silence_seconds_max`. Postgres ends a statement
    after `statement_seconds_max`; None sets no limit.
    """
    options = _make_options(role, lock_timeout_seconds, idle_in_transaction_seconds)
    if statement_seconds_max is not None:
        options["options"] += _make_statement_timeout(statement_seconds_max)
        silence_seconds_max = silence_seconds_max or statement_seconds_max + _SILENCE_MORE_SECONDS
    try:
        connection = BoundedConnection.connect(dsn, autocommit=autocommit, **options)
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached as {role}: {str(error).strip().splitlines()[-1]}") from error
    connection.silence_seconds_max = silence_seconds_max
    return connection


async def connect_async(dsn: str, role: str) -> BoundedAsyncConnection:
    """Open one autocommit connection for asynchronous code, such as a listener.

    Raise DatabaseError if Postgres is unreachable.
    """
    try:
        return await BoundedAsyncConnection.connect(dsn, autocommit=True, **_make_options(role))
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached as {role}: {str(error).strip().splitlines()[-1]}") from error


def make_pool(
    dsn: str, role: str, *, size_max: int = 8, wait_seconds: float = 2.0, statement_seconds_max: float = 3.0
) -> AsyncConnectionPool[Any]:
    """Return an unopened pool of autocommit connections as `role`, for the API; a caller waits at most `wait_seconds`.

    Postgres ends a statement after `statement_seconds_max`. So a longer silence means that Postgres is unreachable.
    """
    options = _make_options(role)
    options["options"] += _make_statement_timeout(statement_seconds_max)

    async def configure(connection: AsyncConnection[Any]) -> None:
        register(connection)
        if isinstance(connection, BoundedAsyncConnection):
            connection.silence_seconds_max = statement_seconds_max + _SILENCE_MORE_SECONDS

    return AsyncConnectionPool(
        dsn,
        connection_class=BoundedAsyncConnection,
        kwargs={"autocommit": True, **options, "connect_timeout": 4},
        min_size=1,
        max_size=size_max,
        timeout=wait_seconds,
        # The pool doubles its pauses between attempts up to this time, then starts again at the next request. Longer
        # pauses would outlast the outage.
        reconnect_timeout=4.0,
        configure=configure,
        open=False,
    )
