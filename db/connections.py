"""Connections to Postgres: one role each, bounded waits, no hung peers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from db.binary import register
from db.bounded_connection import BoundedAsyncConnection, BoundedConnection
from domain.errors import Outage
from runtime.release import VERSION

# The roles that db/roles.sql makes; a service's login must be a member of its own.
ROLES: Final = (
    "ledgerline_owner",
    "ledgerline_posting",
    "ledgerline_relay",
    "ledgerline_api",
    "ledgerline_reconciliation",
    "ledgerline_audit",
    "ledgerline_operator",
)

_SILENCE_MORE_SECONDS: Final = 1.0

# Trouble that passes by waiting: the server or the way to it is away, others hold what we need, we slept so long over a
# transaction that Postgres ended it, or we were led to a standby (the last three are internal errors to psycopg).
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
    """Whether Postgres itself reported this trouble, such as a full disk: the connection to it works."""
    return isinstance(error, psycopg.Error) and error.sqlstate is not None


class DatabaseBusy(DatabaseError):
    """Postgres is there and has too much to do: the query took too long, or the server lacks resources."""

    cause = "server"


class StatementTooLong(DatabaseBusy):
    """Postgres ended a statement that took longer than it may."""

    cause = "statement"


class PoolBusy(DatabaseBusy):
    """No connection of the pool got free in time. That alone does not tell whether Postgres is away."""

    cause = "pool"


_INSUFFICIENT_RESOURCES: Final = "53"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn trouble that passes into DatabaseError with this sentence, or DatabaseBusy if Postgres is there."""
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


def with_password(dsn: str, password: str) -> str:
    """The DSN with this password, in place of its own."""
    return make_conninfo(dsn, password=password)


def _options(
    role: str, lock_timeout_seconds: float = 10.0, idle_in_transaction_seconds: float = 60.0
) -> dict[str, Any]:
    return {
        # None of our queries is worth compiling, but the planner takes a range of legs for many.
        "options": f"-c role={role} -c lock_timeout={int(lock_timeout_seconds * 1000)}"
        f" -c idle_in_transaction_session_timeout={int(idle_in_transaction_seconds * 1000)} -c timezone=UTC -c jit=off",
        # Who is connected, and of which release: db.migrate asks before it takes anything away.
        "application_name": f"{role} {VERSION}",
        "connect_timeout": 10,
        # A black-holed peer is found after 10 + 3 * 5 seconds of silence; unsent data after 30.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def _statement_timeout(seconds: float) -> str:
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
    """One connection that acts as `role`; DatabaseError where Postgres is away.

    Postgres ends the session of a process that sleeps in its transaction for so long, and lets go of its locks. Where
    Postgres does not answer a statement within `silence_seconds_max`, that raises PostgresSilent. Postgres ends a
    statement after `statement_seconds_max`; without it, after none.
    """
    options = _options(role, lock_timeout_seconds, idle_in_transaction_seconds)
    if statement_seconds_max is not None:
        options["options"] += _statement_timeout(statement_seconds_max)
        silence_seconds_max = silence_seconds_max or statement_seconds_max + _SILENCE_MORE_SECONDS
    try:
        connection = BoundedConnection.connect(dsn, autocommit=autocommit, **options)
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached as {role}: {str(error).strip().splitlines()[-1]}") from error
    connection.silence_seconds_max = silence_seconds_max
    return connection


async def connect_async(dsn: str, role: str) -> BoundedAsyncConnection:
    """One autocommit connection for asynchronous code, such as a listener; DatabaseError where Postgres is away."""
    try:
        return await BoundedAsyncConnection.connect(dsn, autocommit=True, **_options(role))
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached as {role}: {str(error).strip().splitlines()[-1]}") from error


def pool(
    dsn: str, role: str, *, size_max: int = 8, wait_seconds: float = 2.0, statement_seconds_max: float = 3.0
) -> AsyncConnectionPool[Any]:
    """An unopened pool of autocommit connections as `role`, for the API; a caller waits `wait_seconds` at most.

    Postgres ends a statement after `statement_seconds_max`. So a longer silence means that Postgres is away.
    """
    options = _options(role)
    options["options"] += _statement_timeout(statement_seconds_max)

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
        # The pool doubles its pauses for so long and then begins anew at the next request; longer ones would outlast
        # the outage.
        reconnect_timeout=4.0,
        configure=configure,
        open=False,
    )
