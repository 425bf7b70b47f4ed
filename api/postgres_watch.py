"""Whether Postgres answers, as this process last saw it, so that no request waits again for a Postgres that is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from db.connections import DatabaseBusy, DatabaseError, PoolBusy, connect_async
from db.fetch import Pool
from db.reads import read_books

_PROBE_SECONDS: Final = 1.0
_LOOK_SECONDS_MAX: Final = 2.0
_LOOK_KEPT_SECONDS: Final = 1.0

logger: Final = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class PostgresWatch:
    """This process' view of whether Postgres answers. Use it in one event loop only."""

    def __init__(self, pool: Pool, dsn: str, role: str, noticed_busy: Callable[[str], None]) -> None:
        """Take `noticed_busy`, which is called with the cause each time Postgres is too busy for a question."""
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
        """The seconds since Postgres stopped answering; None while it answers."""
        return None if self._away_since is None else time.monotonic() - self._away_since

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question. Raise DatabaseError, at once while Postgres is known to be away.

        Raise DatabaseBusy if Postgres is there and has too much to do. That is not an outage, so the next question is
        still sent to Postgres.
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
        """Return whether Postgres accepts a connection outside the pool: a pool without a free one may just be busy.

        All callers share one attempt, and its result is kept for _LOOK_KEPT_SECONDS.
        """
        if self._look is None or (self._look.done() and time.monotonic() - self._looked_time > _LOOK_KEPT_SECONDS):
            self._look = asyncio.create_task(self._take_a_look(), name="Postgres look")
        return await asyncio.shield(self._look)

    async def _take_a_look(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_SECONDS_MAX):
                connection = await connect_async(self._dsn, self._role)
                await connection.close()
        except (DatabaseError, TimeoutError) as error:
            logger.debug("Postgres not seen", error=str(error))
            return False
        finally:
            self._looked_time = time.monotonic()
        return True

    def _notice(self, cause: str) -> None:
        if self._away_since is None:
            logger.warning("Postgres away", error=cause)
            self._away_since = time.monotonic()
            self._probe = asyncio.create_task(self._find_back(), name="postgres")

    async def _find_back(self) -> None:
        while self._away_since is not None and not await self._wait_for_close():
            try:
                await read_books(self._pool)
            except DatabaseBusy as error:
                if isinstance(error, PoolBusy) and not await self._is_there():
                    continue
            except DatabaseError:
                continue
            logger.info("Postgres back", seconds=round(time.monotonic() - self._away_since, 1))
            self._away_since = None

    async def _wait_for_close(self) -> bool:
        """Wait for the pause between two probes; return whether `close` was called."""
        try:
            return await asyncio.wait_for(self._closing.wait(), _PROBE_SECONDS)
        except TimeoutError:
            return False

    def close(self) -> None:
        """Stop all probes for Postgres."""
        self._closing.set()
        for task in (self._probe, self._look):
            if task is not None:
                task.cancel()
