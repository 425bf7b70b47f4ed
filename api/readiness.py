"""What an API process still lacks to take intents; /readyz tells it."""

import asyncio
import time
from typing import Final

from api.authentication import TRUSTED_SECONDS_MAX
from api.background import Background
from api.database import Database
from api.intake import Intake
from api.known_books import KnownBooks
from db.connections import DatabaseError

_CHECKS_KEPT_SECONDS: Final = 1.0


class Readiness:
    """The checks of one process, made at most once a second for all who ask. Use it in one event loop only."""

    def __init__(self, database: Database, books: KnownBooks, intake: Intake, background: Background) -> None:
        self._database = database
        self._books = books
        self._intake = intake
        self._background = background
        self._lock = asyncio.Lock()
        self._checked: tuple[float, dict[str, str]] = (0.0, {})

    async def missing(self) -> dict[str, str]:
        """Return what keeps the process from taking intents: part -> sentence.

        Postgres counts as missing only after TRUSTED_SECONDS_MAX without an answer, or if no books were loaded yet;
        see `list_degraded`.
        """
        async with self._lock:
            checked_at, found = self._checked
            if not checked_at or time.monotonic() - checked_at > _CHECKS_KEPT_SECONDS:
                found = await self._check()
                self._checked = (time.monotonic(), found)
            return found

    def list_degraded(self) -> dict[str, str]:
        """Return what is away while intents are still taken, for a limited time: part -> sentence."""
        if self._database.away_seconds is None:
            return {}
        return {"postgres": "Postgres does not answer: intents of keys that were seen lately are taken, unseen before."}

    async def _check(self) -> dict[str, str]:
        kafka, postgres = await asyncio.gather(self._intake.find_kafka_fault(), self._find_postgres_fault())
        failed = ", ".join(self._background.list_failed())
        found = {
            "kafka": kafka,
            "postgres": postgres,
            "schema": None if self._intake.has_schema else "The schema of intents was not found in the registry yet.",
            "books": None if self._books.is_loaded else "The books are not loaded yet.",
            "tasks": f"Background work ended by an error of ours: {failed}; restart the process." if failed else None,
        }
        return {part: fault for part, fault in found.items() if fault is not None}

    async def _find_postgres_fault(self) -> str | None:
        try:
            await self._books.refresh()
        except DatabaseError as error:
            away_seconds = self._database.away_seconds or 0.0
            return str(error) if not self._books.has_frame or away_seconds > TRUSTED_SECONDS_MAX else None
        return None
