"""The check before new intents are published: the intake is open, and the producer knows every lane."""

import asyncio
import time
from typing import Final

from api.problems import Kind, Problem, unavailable
from db.books import Books
from producers.intents import DeliveryError, IntentProducer

LOOK_SECONDS_MAX: Final = 15.0
"""How old a read of the books may be when the intents that it allowed are handed to Kafka. This bound and the delivery
timeout together limit how long intents still reach the topic after the intake was closed."""
RETRY_SECONDS: Final = 5
_KAFKA_SECONDS_MAX: Final = 3.0


class IntakeGate:
    """The check of the intake, for one producer. Use it in one event loop only."""

    def __init__(self, producer: IntentProducer) -> None:
        self._producer = producer
        self._lanes = 0
        self._lock = asyncio.Lock()

    async def fault(self, books: Books) -> Problem | None:
        """Return why no new intent may be published under these books; None if it may."""
        if books.closed_because is not None:
            detail = f"{books.closed_because} Nothing was done: the same request may be sent again."
            return unavailable(Kind.INTAKE_CLOSED, detail, RETRY_SECONDS)
        wanted = books.lanes or 0
        if self._lanes >= wanted:
            return None
        async with self._lock:
            if self._lanes < wanted:
                # The producer chooses only among the partitions that it knows, and refreshes its list after minutes.
                try:
                    self._lanes = await asyncio.to_thread(self._producer.partition_count, _KAFKA_SECONDS_MAX)
                except DeliveryError as error:
                    detail = f"{error} The same request with the same key may be sent again safely."
                    return unavailable(Kind.KAFKA_UNAVAILABLE, detail)
        if self._lanes < wanted:
            return unavailable(Kind.NOT_READY, "Kafka does not tell this process of all lanes yet: try again.")
        return None


def outdated(looked_time: float) -> Problem | None:
    """Return the problem if the read of the books at `looked_time` (monotonic clock) is too old; else None."""
    if time.monotonic() - looked_time <= LOOK_SECONDS_MAX:
        return None
    return unavailable(Kind.OVERLOADED, "Too much time passed before Kafka was asked: the same may be sent again.")
