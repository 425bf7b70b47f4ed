"""Whether new intents may be published, and whether the producer knows of every lane that they may go to."""

import asyncio
import time
from typing import Final

from api.problems import Kind, Problem, unavailable
from db.books import Books
from producers.intents import DeliveryError, IntentProducer

LOOK_SECONDS_MAX: Final = 15.0
"""How old a look at the books may be when what it allowed is handed to Kafka. With the delivery timeout it bounds how
long intents still come after the intake was closed."""
RETRY_SECONDS: Final = 5
_KAFKA_SECONDS_MAX: Final = 3.0


class IntakeGate:
    """For the coroutines of one event loop."""

    def __init__(self, producer: IntentProducer) -> None:
        self._producer = producer
        self._lanes = 0
        self._lock = asyncio.Lock()

    async def fault(self, books: Books) -> Problem | None:
        """Why nothing new may be published by these books; None where it may."""
        if books.closed_because is not None:
            detail = f"{books.closed_because} Nothing was done: the same request may be sent again."
            return unavailable(Kind.INTAKE_CLOSED, detail, RETRY_SECONDS)
        wanted = books.lanes or 0
        if self._lanes >= wanted:
            return None
        async with self._lock:
            if self._lanes < wanted:
                # The producer chooses among the partitions that it knows of, and would look again after minutes.
                try:
                    self._lanes = await asyncio.to_thread(self._producer.partition_count, _KAFKA_SECONDS_MAX)
                except DeliveryError as error:
                    detail = f"{error} The same request with the same key may be sent again safely."
                    return unavailable(Kind.KAFKA_UNAVAILABLE, detail)
        if self._lanes < wanted:
            return unavailable(Kind.NOT_READY, "Kafka does not tell this process of all lanes yet: try again.")
        return None


def outdated(looked_time: float) -> Problem | None:
    """The answer where too much time has passed since a look at the books (by the monotonic clock)."""
    if time.monotonic() - looked_time <= LOOK_SECONDS_MAX:
        return None
    return unavailable(Kind.OVERLOADED, "Too much time passed before Kafka was asked: the same may be sent again.")
