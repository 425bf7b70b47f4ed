"""What the two proving agents share: a sweep that is done page by page, and the events of their breaks."""

import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from prometheus_client import Gauge

from db.agent_connection import AgentConnection
from db.breaks import BreakStore
from domain.errors import LedgerlineError
from producers.events import EventProducer, break_event

logger: Final = structlog.get_logger(__name__)

EVENTS_PER_CALL_MAX: Final = 500


class PagedSweep:
    """Walks over all that is stored, a page at each call, and begins anew after a pause."""

    def __init__(self, pages: Callable[[], Iterator[None]], pause_seconds: float, duration: Gauge) -> None:
        self._pages = pages
        self._pause_seconds = pause_seconds
        self._duration = duration
        self._under_way: Iterator[None] | None = None
        self._started = 0.0
        self._due = 0.0

    def turn_page(self) -> bool:
        """Do one page; False where the next sweep is not due yet."""
        now = time.monotonic()
        if self._under_way is None:
            if now < self._due:
                return False
            self._under_way, self._started = self._pages(), now
        pages, self._under_way = self._under_way, None  # one that raises is not gone on with
        try:
            next(pages)
        except StopIteration:
            self._duration.set(now - self._started)
            self._due = now + self._pause_seconds
        else:
            self._under_way = pages
        return True


def publish_breaks(store: AgentConnection, breaks: BreakStore, events: EventProducer) -> None:
    """Send breaks whose state the topic was not told. Where Kafka is away they wait for the next call."""
    with store.transaction() as connection:
        waiting = breaks.unpublished(connection, EVENTS_PER_CALL_MAX)
        if not waiting:
            return
        try:
            events.send(break_event(item) for item in waiting)
        except LedgerlineError as error:
            logger.warning("breaks wait to be published", breaks=len(waiting), cause=str(error))
            return
        breaks.published(connection, waiting)
