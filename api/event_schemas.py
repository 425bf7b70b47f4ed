"""The encoders of capabilities' events, as one API process knows them."""

import asyncio
from typing import Final

import structlog

from api.background import Backoff
from api.configuration import Configuration
from api.problems import Kind, make_unavailable_problem
from producers.event_encoding import EventEncoders
from runtime.schemas import SchemaError

logger: Final = structlog.get_logger(__name__)


class EventSchemas:
    """Looks up the schemas of events once; until then, changes of capabilities are answered 503."""

    def __init__(self, configuration: Configuration) -> None:
        self._registry = configuration.registry
        self._encoders: EventEncoders | None = None

    async def load(self, stopping: asyncio.Event) -> None:
        """Look up the schemas; try again until the registry knows them."""
        backoff = Backoff(stopping)
        while self._encoders is None and not stopping.is_set():
            try:
                self._encoders = await asyncio.to_thread(EventEncoders.find_registered, self._registry)
            except SchemaError as error:
                logger.warning("schemas of events not found", error=str(error))
                await backoff.pause()

    def get_encoders(self) -> EventEncoders:
        """Return the encoders. Raise Problem until they are known."""
        if self._encoders is None:
            raise make_unavailable_problem(
                Kind.NOT_READY, "The schemas of events are not known yet: the schema registry is away."
            )
        return self._encoders
