"""Questions of many requests in one query: for an API process, a round trip to Postgres costs more than the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

PACE_SECONDS: Final = 0.008
"""Least time between the beginnings of two look-ups. A question after a longer pause does not wait."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Gathering(Generic[Question, Answer]):
    """Collects questions while a look-up is under way, and asks them together in the next one.

    Only one look-up is under way at a time. Use it in one event loop only.
    """

    def __init__(self, look_up: Callable[[list[Question]], Awaitable[Answer]]) -> None:
        self._look_up = look_up
        self._gathered: tuple[list[Question], asyncio.Task[Answer]] | None = None
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    async def ask(self, questions: Iterable[Question]) -> Answer:
        """Return the answer to these questions and to those of other callers in the same look-up.

        An error of the look-up is raised in each of these callers.
        """
        if self._gathered is None:
            empty: list[Question] = []
            self._gathered = (empty, asyncio.create_task(self._answer(empty), name="look-up"))
        gathered, answer = self._gathered
        gathered.extend(questions)
        # A caller that is cancelled must not cancel the look-up of the others.
        return await asyncio.shield(answer)

    async def _answer(self, gathered: list[Question]) -> Answer:
        async with self._turn:
            loop = asyncio.get_running_loop()
            if loop.time() < self._not_before:
                await asyncio.sleep(self._not_before - loop.time())
            self._not_before = loop.time() + PACE_SECONDS
            self._gathered = None
            return await self._look_up(gathered)
