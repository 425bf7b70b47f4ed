"""Back-off for parts that start or recover while the API already answers requests."""

import asyncio
from typing import Final

_FIRST_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 5.0


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
