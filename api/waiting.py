"""Requests that wait until their lane is posted past their offset. Postgres' NOTIFY wakes them; they do not poll."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from api.background import Backoff
from db.connections import DatabaseError
from db.fetch import Pool
from db.reads import listen_for_postings, read_lane_offsets

logger: Final = structlog.get_logger(__name__)


class LaneWaiter:
    """The waiting requests of one process, and the one connection that listens for all of them."""

    def __init__(self, pool: Pool, dsn: str, announced: Callable[[Mapping[int, int]], None]) -> None:
        """Take `announced`, which is called with each announcement, before the waiting requests are woken."""
        self._pool = pool
        self._dsn: Final = dsn
        self._next_offsets: dict[int, int] = {}
        self._waiters: dict[int, dict[asyncio.Future[bool], int]] = {}
        self._released = False
        self._announced = announced

    async def passed(self, lane: int, offset: int, timeout_seconds: float) -> bool:
        """Wait until the lane is posted past `offset`; return whether that happened within `timeout_seconds`.

        Return False also if the process is about to end.
        """
        if self._next_offsets.get(lane, 0) > offset:
            return True
        if self._released or timeout_seconds <= 0:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(lane, {})
        waiters[future] = offset
        try:
            return await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return False
        finally:
            waiters.pop(future, None)

    def announce(self, next_offsets: dict[int, int]) -> None:
        """Wake the requests whose lane is now posted past their offset."""
        self._announced(next_offsets)
        for lane, next_offset in next_offsets.items():
            self._next_offsets[lane] = next_offset
            for future, offset in self._waiters.get(lane, {}).items():
                if offset < next_offset and not future.done():
                    future.set_result(True)

    def release(self) -> None:
        """Let every waiting and every later call of `passed` return at once, for a shutdown."""
        self._released = True
        for waiters in self._waiters.values():
            for future in waiters:
                if not future.done():
                    future.set_result(False)

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until `stopping`; after a lost connection listen again, and read the offsets announced meanwhile."""
        backoff = Backoff(stopping)
        while not stopping.is_set():
            try:
                async for postings in listen_for_postings(self._dsn):
                    # An empty item: listening has just begun, and earlier announcements may have been missed.
                    self.announce(postings or await read_lane_offsets(self._pool))
                    backoff.reset()
            except DatabaseError as error:
                logger.warning("listening failed", error=str(error))
            await backoff.pause()
