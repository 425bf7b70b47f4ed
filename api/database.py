"""Postgres as one API process reads it: its pools of connections, and whether it answers."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from api.configuration import Configuration
from api.metrics import Metrics
from api.postgres_watch import PostgresWatch
from db.connections import make_pool
from db.fetch import Pool

ROLE: Final = "ledgerline_api"
_POOL_SIZE: Final = 8
_CLOSE_SECONDS_MAX: Final = 0.5

Answer = TypeVar("Answer")


class Database:
    """The reads of one API process. Make it inside the event loop that it serves.

    Questions that may take Postgres seconds have a pool of their own, so that they never hold up the others.
    """

    def __init__(self, configuration: Configuration, metrics: Metrics) -> None:
        self._dsn = configuration.postgres_dsn
        self._heavy_seconds_max = configuration.heavy_read_seconds_max
        self.pool = make_pool(
            self._dsn, ROLE, size_max=_POOL_SIZE, statement_seconds_max=configuration.read_seconds_max
        )
        self._heavy_pool = make_pool(
            self._dsn,
            ROLE,
            size_max=configuration.shares.heavy_reads.in_all,
            statement_seconds_max=self._heavy_seconds_max,
        )
        self._watch = PostgresWatch(self.pool, self._dsn, ROLE, lambda cause: metrics.database_busy.labels(cause).inc())
        metrics.watch_pool(self.pool.get_stats)

    async def open(self) -> None:
        """Begin to connect, and return at once."""
        await self.pool.open(wait=False)
        await self._heavy_pool.open(wait=False)

    def stop_probing(self) -> None:
        """Stop looking whether Postgres is back."""
        self._watch.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.pool.close(_CLOSE_SECONDS_MAX)
        await self._heavy_pool.close(_CLOSE_SECONDS_MAX)

    @property
    def away_seconds(self) -> float | None:
        """The seconds since Postgres stopped answering; None while it answers."""
        return self._watch.away_seconds

    async def ask(self, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question that reads a few rows. Raise DatabaseError as `PostgresWatch.ask` does."""
        return await self._watch.ask(partial(question, self.pool))

    async def ask_much(self, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Do the same as `ask` for a question that may take Postgres seconds."""
        return await self._watch.ask(partial(question, self._heavy_pool))

    async def ask_in_thread(self, look_up: Callable[..., Answer], *arguments: Any) -> Answer:
        """Do the same as `ask_much` for a function that blocks, and that opens a connection of its own."""
        options = {"role": ROLE, "statement_seconds_max": self._heavy_seconds_max}
        return await self._watch.ask(partial(asyncio.to_thread, look_up, self._dsn, *arguments, **options))
