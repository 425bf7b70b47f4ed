"""Whether Postgres answers, as far as this process has seen: what can do without it does not wait for it each time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from db.connections import DatabaseError
from db.reads import Pool, read_books

_PROBE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class PostgresWatch:
    """For the coroutines of one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._away_since: float | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def away_seconds(self) -> float | None:
        """For how long Postgres has not answered; None while it does."""
        return None if self._away_since is None else time.monotonic() - self._away_since

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to a question; DatabaseError, at once while Postgres is known to be away."""
        if self._away_since is not None:
            raise DatabaseError("Postgres does not answer.")
        try:
            return await question()
        except DatabaseError as error:
            self._notice(str(error))
            raise

    def _notice(self, cause: str) -> None:
        if self._away_since is None:
            log.warning("postgres_away", error=cause)
            self._away_since = time.monotonic()
            self._probe = asyncio.create_task(self._find_back(), name="postgres")

    async def _find_back(self) -> None:
        while self._away_since is not None and not await self._told_to_close():
            try:
                await read_books(self._pool)
            except DatabaseError:
                continue
            log.info("postgres_back", seconds=round(time.monotonic() - self._away_since, 1))
            self._away_since = None

    async def _told_to_close(self) -> bool:
        """Whether it is, asked for as long as the pause between two probes."""
        try:
            return await asyncio.wait_for(self._closing.wait(), _PROBE_SECONDS)
        except TimeoutError:
            return False

    def close(self) -> None:
        """Look for it no longer."""
        self._closing.set()
        if self._probe is not None:
            self._probe.cancel()
