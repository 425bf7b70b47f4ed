"""Connections that do not wait for an answer for ever."""

from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.abc import PQGen

_TICK_SECONDS: Final = 0.1

Result = TypeVar("Result")


class PostgresSilent(psycopg.OperationalError):
    """Postgres took a statement and did not answer in time. Whether it was done is unknown; the connection is closed.

    TCP does not notice where something still acknowledges each packet: the kernel of a server that stands still, or a
    proxy in between whose other side is gone.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Postgres did not answer for {seconds:g} seconds")


class BoundedConnection(Connection[Any]):
    """Waits for an answer no longer than `silence_seconds_max`, then raises PostgresSilent; None bounds nothing."""

    silence_seconds_max: float | None = None

    def wait(self, gen: PQGen[Result], interval: float = _TICK_SECONDS, timeout: float | None = None) -> Result:
        """As psycopg's, which bounds no statement."""
        if timeout is not None or self.silence_seconds_max is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.silence_seconds_max)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise PostgresSilent(self.silence_seconds_max) from error


class BoundedAsyncConnection(AsyncConnection[Any]):
    """The same for the API, behind which a client waits."""

    silence_seconds_max: float | None = 4.0

    async def wait(self, gen: PQGen[Result], interval: float = _TICK_SECONDS, timeout: float | None = None) -> Result:
        """As psycopg's, which bounds no statement."""
        if timeout is not None or self.silence_seconds_max is None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.silence_seconds_max)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise PostgresSilent(self.silence_seconds_max) from error
