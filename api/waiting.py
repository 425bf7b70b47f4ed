"""Requests that wait until their lane is posted past their offset; woken by NOTIFY, not by asking again and again."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from api.retrying import Backoff
from db.connections import DatabaseError
from db.reads import Pool, lane_offsets, posted_notifications

log = structlog.get_logger(__name__)


class LaneWaiter:
    """One listening connection for all waiting requests of a process."""

    def __init__(self, pool: Pool, dsn: str) -> None:
        self._pool = pool
        self._dsn: Final = dsn
        self._next_offsets: dict[int, int] = {}
        self._waiters: dict[int, dict[asyncio.Future[bool], int]] = {}
        self._released = False
        self.announced: Callable[[Mapping[int, int]], None] = lambda _: None
        """Told of each posting, beside those who wait."""

    async def passed(self, lane: int, offset: int, timeout_seconds: float) -> bool:
        """Whether the lane is posted past `offset` within the time; False too when the process is about to end."""
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
        """Wake those whose lane is now posted past their offset."""
        self.announced(next_offsets)
        for lane, next_offset in next_offsets.items():
            self._next_offsets[lane] = next_offset
            for future, offset in self._waiters.get(lane, {}).items():
                if offset < next_offset and not future.done():
                    future.set_result(True)

    def release(self) -> None:
        """Let every waiting request go with what it has, for a shutdown."""
        self._released = True
        for waiters in self._waiters.values():
            for future in waiters:
                if not future.done():
                    future.set_result(False)

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until `stopping`; after each loss of the connection listen again, and look up what was missed."""
        backoff = Backoff(stopping)
        while not stopping.is_set():
            try:
                async for postings in posted_notifications(self._dsn):
                    # Empty: listening has just begun, and earlier announcements may have been missed.
                    self.announce(postings or await lane_offsets(self._pool))
                    backoff.reset()
            except DatabaseError as error:
                log.warning("listening_failed", error=str(error))
            await backoff.pause()
