"""Whether Postgres answers, as far as this process has seen: what can do without it does not wait for it each time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from db.connections import DatabaseBusy, DatabaseError, PoolBusy, connect_async
from db.reads import Pool, read_books

_PROBE_SECONDS: Final = 1.0
_LOOK_SECONDS_MAX: Final = 2.0
_LOOK_KEPT_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class PostgresWatch:
    """For the coroutines of one event loop."""

    def __init__(self, pool: Pool, dsn: str, role: str, noticed_busy: Callable[[str], None]) -> None:
        """`noticed_busy` is told the cause each time Postgres is too busy for a question."""
        self._pool = pool
        self._dsn = dsn
        self._role = role
        self._noticed_busy = noticed_busy
        self._look: asyncio.Task[bool] | None = None
        self._looked_time = 0.0
        self._away_since: float | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def away_seconds(self) -> float | None:
        """For how long Postgres has not answered; None while it does."""
        return None if self._away_since is None else time.monotonic() - self._away_since

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to a question; DatabaseError, at once while Postgres is known to be away.

        DatabaseBusy if Postgres is there and has too much to do: that is no outage, and the next question is asked.
        """
        if self._away_since is not None:
            raise DatabaseError("Postgres does not answer.")
        try:
            return await question()
        except DatabaseBusy as error:
            if isinstance(error, PoolBusy) and not await self._is_there():
                self._notice(str(error))
                raise DatabaseError("Postgres cannot be reached.") from error
            self._noticed_busy(error.cause)
            raise
        except DatabaseError as error:
            self._notice(str(error))
            raise

    async def _is_there(self) -> bool:
        """Whether Postgres takes a connection beside the pool's: a pool without a free one may just be busy."""
        if self._look is None or (self._look.done() and time.monotonic() - self._looked_time > _LOOK_KEPT_SECONDS):
            self._look = asyncio.create_task(self._take_a_look(), name="postgres look")
        return await asyncio.shield(self._look)

    async def _take_a_look(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_SECONDS_MAX):
                connection = await connect_async(self._dsn, self._role)
                await connection.close()
        except (DatabaseError, TimeoutError) as error:
            log.debug("postgres_not_seen", error=str(error))
            return False
        finally:
            self._looked_time = time.monotonic()
        return True

    def _notice(self, cause: str) -> None:
        if self._away_since is None:
            log.warning("postgres_away", error=cause)
            self._away_since = time.monotonic()
            self._probe = asyncio.create_task(self._find_back(), name="postgres")

    async def _find_back(self) -> None:
        while self._away_since is not None and not await self._told_to_close():
            try:
                await read_books(self._pool)
            except DatabaseBusy as error:
                if isinstance(error, PoolBusy) and not await self._is_there():
                    continue
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
        for task in (self._probe, self._look):
            if task is not None:
                task.cancel()
