"""Outcomes of intents: looked up for many requests at once, and waited for."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from uuid import UUID

from api.database import Database
from api.gathering import Gathering
from api.known_books import KnownBooks
from api.metrics import Metrics
from api.waiting import LaneWaiter
from db.reads import IntentQuestion, IntentState, Settled, find_settled, find_states


class Outcomes:
    """The look-ups of outcomes of one API process: one query answers all requests of a tenant that ask meanwhile.

    The look-ups raise DatabaseError, at once while Postgres is known to be away.
    """

    def __init__(self, database: Database, books: KnownBooks, waiter: LaneWaiter, metrics: Metrics) -> None:
        self._database = database
        self._books = books
        self._waiter = waiter
        self._waiting = metrics.waiting
        self._settled: dict[str, Gathering[UUID, dict[UUID, Settled]]] = {}
        self._states: dict[str, Gathering[IntentQuestion, dict[IntentQuestion, IntentState]]] = {}

    async def find_settled(self, tenant: str, intent_ids: Iterable[UUID]) -> dict[UUID, Settled]:
        """Return the outcomes, without legs, of those of these intents that are settled.

        The result also holds intents that other requests asked about in the same query. The query also tells the
        version of the books; a new version is loaded.
        """
        if tenant not in self._settled:
            self._settled[tenant] = Gathering(partial(self._look_up_settled, tenant))
        return await self._settled[tenant].ask(intent_ids)

    async def _look_up_settled(self, tenant: str, intent_ids: list[UUID]) -> dict[UUID, Settled]:
        version, known = await self._database.ask(lambda pool: find_settled(pool, tenant, intent_ids))
        await self._books.notice_version(version)
        return known

    async def find_state(self, tenant: str, question: IntentQuestion) -> IntentState:
        """Return what is known of an intent."""
        if tenant not in self._states:
            self._states[tenant] = Gathering(partial(self._look_up_states, tenant))
        return (await self._states[tenant].ask([question]))[question]

    async def _look_up_states(self, tenant: str, questions: list[IntentQuestion]) -> dict[IntentQuestion, IntentState]:
        return await self._database.ask(lambda pool: find_states(pool, tenant, questions))

    async def wait(self, offsets: Mapping[int, int], seconds: float) -> bool:
        """Wait for all lanes at once; return whether each was posted past its offset within `seconds`."""
        if seconds <= 0:
            return False
        with self._waiting.track_inprogress():
            passed = (self._waiter.passed(lane, offset, seconds) for lane, offset in offsets.items())
            return all(await asyncio.gather(*passed))
