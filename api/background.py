"""Work of an API process besides its requests: tasks that end with the process, and pauses between their attempts."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

_FIRST_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 5.0

logger: Final = structlog.get_logger(__name__)


class Background:
    """The tasks of one process. Use it in one event loop only."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set once the process stops."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run the work until it ends or the process stops."""
        self._tasks.append(asyncio.create_task(work, name=name))

    def list_failed(self) -> list[str]:
        """Return the names of the tasks that ended by an error."""
        return [task.get_name() for task in self._tasks if task.done() and not task.cancelled() and task.exception()]

    async def stop(self) -> None:
        """Cancel all tasks and wait for their ends."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("background task failed", error=repr(outcome))


class Backoff:
    """Pauses between attempts: each is twice as long, up to a bound, and all end at once when the process stops."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._seconds = _FIRST_SECONDS

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._seconds = _FIRST_SECONDS

    async def pause(self) -> None:
        """Wait before the next attempt."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._seconds)
        except TimeoutError:
            self._seconds = min(2 * self._seconds, _LONGEST_SECONDS)
