"""Questions of many requests, asked of Postgres as one: a round trip costs an API process more than its answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

PACE_SECONDS: Final = 0.008
"""From the beginning of one look-up to that of the next. Who comes after a pause waits for nothing."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Gathering(Generic[Question, Answer]):
    """For the coroutines of one event loop. One look-up is under way at a time; what comes meanwhile goes together."""

    def __init__(self, look_up: Callable[[list[Question]], Awaitable[Answer]]) -> None:
        self._look_up = look_up
        self._gathered: tuple[list[Question], asyncio.Task[Answer]] | None = None
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    async def ask(self, questions: Iterable[Question]) -> Answer:
        """The answer to these questions and to others'; whatever the look-up raises, each who asked is told."""
        if self._gathered is None:
            empty: list[Question] = []
            self._gathered = (empty, asyncio.create_task(self._answer(empty), name="look-up"))
        gathered, answer = self._gathered
        gathered.extend(questions)
        # Who leaves does not take the answer of the others along.
        return await asyncio.shield(answer)

    async def _answer(self, gathered: list[Question]) -> Answer:
        async with self._turn:
            loop = asyncio.get_running_loop()
            if loop.time() < self._not_before:
                await asyncio.sleep(self._not_before - loop.time())
            self._not_before = loop.time() + PACE_SECONDS
            self._gathered = None
            return await self._look_up(gathered)
