"""The books' frame as this process last read it, and the secret of the ledger's cursors."""

import asyncio
from typing import Final

import structlog

from api.background import Backoff
from api.cursors import Cursors
from api.database import Database
from api.problems import Kind, Problem, make_unavailable_problem
from db.access import read_cursor_key
from db.books import Books
from db.connections import DatabaseError
from db.reads import read_books
from domain.chart import Chart

logger: Final = structlog.get_logger(__name__)


class KnownBooks:
    """What this process knows of the books. Use it in one event loop only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._frame: Books | None = None
        self._cursors: Cursors | None = None
        self._lock = asyncio.Lock()

    async def load(self, stopping: asyncio.Event) -> None:
        """Read the frame and the secret; try again until Postgres answers."""
        backoff = Backoff(stopping)
        while self._cursors is None and not stopping.is_set():
            try:
                self._frame = await read_books(self._database.pool)
                self._cursors = Cursors(await read_cursor_key(self._database.pool))
            except DatabaseError as error:
                logger.warning("books not loaded", error=str(error))
                await backoff.pause()

    async def refresh(self) -> None:
        """Read the frame again. Raise DatabaseError, at once while Postgres is known to be away."""
        self._frame = await self._database.ask(read_books)

    async def notice_version(self, version: int) -> None:
        """Read the frame again if this version is newer than the known one."""
        if self.frame.version != version:
            async with self._lock:
                if self.frame.version < version:
                    self._frame = await read_books(self._database.pool)

    @property
    def has_frame(self) -> bool:
        """Whether the frame was read."""
        return self._frame is not None

    @property
    def is_loaded(self) -> bool:
        """Whether the frame and the secret were read."""
        return self._cursors is not None

    @property
    def frame(self) -> Books:
        """The frame. Raises Problem until it is read."""
        if self._frame is None:
            raise _make_not_loaded_problem()
        return self._frame

    @property
    def cursors(self) -> Cursors:
        """The maker and reader of the ledger's cursors. Raises Problem until their secret is read."""
        if self._cursors is None:
            raise _make_not_loaded_problem()
        return self._cursors

    def chart(self, tenant: str) -> Chart:
        """Return the tenant's chart; an empty one for a tenant without a chart."""
        return self.frame.charts.get(tenant) or Chart(())

    def units(self, tenant: str) -> dict[str, int]:
        """Return the tenant's registered units with their exponents."""
        return self.frame.units.get(tenant, {})


def _make_not_loaded_problem() -> Problem:
    return make_unavailable_problem(Kind.NOT_READY, "The books are not loaded yet: Postgres is away or not migrated.")
