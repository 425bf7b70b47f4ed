"""The way of new intents into Kafka: the producer, its schema, and the check whether intents may be published now."""

import asyncio
import time
from typing import Final

import structlog

from api.background import Backoff
from api.configuration import Configuration
from api.problems import Kind, Problem, make_unavailable_problem
from db.books import Books
from producers.intents import SUBJECT, DeliveryError, IntentProducer
from runtime.schemas import SchemaError, find_registered_id, make_registry_client

LOOK_SECONDS_MAX: Final = 15.0
"""How old a read of the books may be when the intents that it allowed are handed to Kafka. This bound and the delivery
timeout together limit how long intents still reach the topic after the intake was closed."""
RETRY_SECONDS: Final = 5
_KAFKA_SECONDS_MAX: Final = 3.0

logger: Final = structlog.get_logger(__name__)


class Intake:
    """The producer of one API process, and the conditions for its use. Use it in one event loop only."""

    def __init__(self, configuration: Configuration) -> None:
        self._registry = configuration.registry
        self.producer = IntentProducer(
            configuration.kafka,
            configuration.topics.intents,
            delivery_timeout_seconds=configuration.delivery_timeout_seconds,
            queue_intents_max=configuration.queue_intents_max,
            fault=configuration.fault,
        )
        self._lanes = 0
        self._lock = asyncio.Lock()

    async def load_schema(self, stopping: asyncio.Event) -> None:
        """Look up the schema of intents; try again until the registry knows it."""
        backoff = Backoff(stopping)
        while not self.has_schema and not stopping.is_set():
            try:
                self.producer.use_schema(await asyncio.to_thread(self._look_up_schema))
            except SchemaError as error:
                logger.warning("schema not found", error=str(error))
                await backoff.pause()

    def _look_up_schema(self) -> int:
        with make_registry_client(self._registry) as client:
            return find_registered_id(client, SUBJECT)

    @property
    def has_schema(self) -> bool:
        """Whether the schema of intents is known."""
        return self.producer.has_schema

    def require_schema(self) -> None:
        """Raise Problem until the schema of intents is known."""
        if not self.has_schema:
            raise make_unavailable_problem(
                Kind.NOT_READY, "The schema of intents is not known yet: the schema registry is away."
            )

    async def find_kafka_fault(self) -> str | None:
        """Return why Kafka cannot take intents; None if it can."""
        try:
            await self._count_lanes()
        except DeliveryError as error:
            return str(error)
        return None

    async def _count_lanes(self) -> int:
        return await asyncio.to_thread(self.producer.count_partitions, _KAFKA_SECONDS_MAX)

    async def fault(self, books: Books) -> Problem | None:
        """Return why no new intent may be published under these books; None if it may.

        The intake must be open, and the producer must know every lane.
        """
        if books.closed_because is not None:
            detail = f"{books.closed_because} Nothing was done: the same request may be sent again."
            return make_unavailable_problem(Kind.INTAKE_CLOSED, detail, RETRY_SECONDS)
        wanted = books.lanes or 0
        if self._lanes >= wanted:
            return None
        async with self._lock:
            if self._lanes < wanted:
                # The producer chooses only among the partitions that it knows, and refreshes its list after minutes.
                try:
                    self._lanes = await self._count_lanes()
                except DeliveryError as error:
                    detail = f"{error} The same request with the same key may be sent again safely."
                    return make_unavailable_problem(Kind.KAFKA_UNAVAILABLE, detail)
        if self._lanes < wanted:
            return make_unavailable_problem(
                Kind.NOT_READY, "Kafka does not tell this process of all lanes yet: try again."
            )
        return None


def find_outdated_problem(looked_time: float) -> Problem | None:
    """Return the problem if the read of the books at `looked_time` (monotonic clock) is too old; else None."""
    if time.monotonic() - looked_time <= LOOK_SECONDS_MAX:
        return None
    return make_unavailable_problem(
        Kind.OVERLOADED, "Too much time passed before Kafka was asked: the same may be sent again."
    )
