"""Connections that wait for an answer only for a limited time."""

from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.abc import PQGen

_TICK_SECONDS: Final = 0.1

Result = TypeVar("Result")


class PostgresSilent(psycopg.OperationalError):
    """Postgres did not answer a statement in time. It may or may not have executed it; the connection is closed.

    TCP does not notice this if something still acknowledges each packet: the kernel of a server that hangs, or a proxy
    that has lost the server.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Postgres did not answer for {seconds:g} seconds")


class BoundedConnection(Connection[Any]):
    """A connection that raises PostgresSilent after `silence_seconds_max` without an answer; None sets no limit."""

    silence_seconds_max: float | None = None

    def wait(self, gen: PQGen[Result], interval: float = _TICK_SECONDS, timeout: float | None = None) -> Result:
        """Wait as psycopg does, but no longer than the limit; psycopg itself sets none for a statement."""
        if timeout is not None or self.silence_seconds_max is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.silence_seconds_max)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise PostgresSilent(self.silence_seconds_max) from error


class BoundedAsyncConnection(AsyncConnection[Any]):
    """An asynchronous BoundedConnection, for the API. It has a default limit because a client waits for the answer."""

    silence_seconds_max: float | None = 4.0

    async def wait(self, gen: PQGen[Result], interval: float = _TICK_SECONDS, timeout: float | None = None) -> Result:
        """Wait as psycopg does, but no longer than the limit; psycopg itself sets none for a statement."""
        if timeout is not None or self.silence_seconds_max is None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.silence_seconds_max)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise PostgresSilent(self.silence_seconds_max) from error
