"""The parts of one API process, and the order in which they start and stop."""

import asyncio
from functools import partial
from typing import Final

from api.authentication import Authentication
from api.background import Background
from api.configuration import Configuration
from api.console.feed import Feed
from api.console.latency import AcceptTimes
from api.database import Database
from api.event_schemas import EventSchemas
from api.intake import Intake
from api.known_books import KnownBooks
from api.metrics import Metrics
from api.outcomes import Outcomes
from api.readiness import Readiness
from api.shares import Shares
from api.submission import Submission
from api.waiting import LaneWaiter
from runtime.positions import PositionReader

DELIVERY_SECONDS_AT_STOP: Final = 3.0


class Parts:
    """The parts of one API process; make them inside the event loop that it serves.

    `api.callers` gives each route only those that it needs. The process starts while Kafka, Postgres or the registry is
    away. The parts try again until these answer, and /readyz names those that do not.
    """

    def __init__(self, configuration: Configuration, metrics: Metrics) -> None:
        topics = configuration.topics
        self.configuration = configuration
        self.metrics = metrics
        self.background = Background()
        self.shares = Shares(configuration.shares, metrics)
        self.database = Database(configuration, metrics)
        self.books = KnownBooks(self.database)
        self.authentication = Authentication(
            self.database, configuration.requests_per_minute, configuration.trusted_proxies
        )
        accept_times = AcceptTimes()
        self.waiter = LaneWaiter(self.database.pool, configuration.postgres_dsn, accept_times.announce)
        self.outcomes = Outcomes(self.database, self.books, self.waiter, metrics)
        self.intake = Intake(configuration)
        self.event_schemas = EventSchemas(configuration)
        self.submission = Submission(self.database, self.books, self.outcomes, self.intake, accept_times, metrics)
        make_reader = partial(PositionReader, configuration.kafka, topics.intents, topics.journal)
        self.feed = Feed(self.database, accept_times, make_reader)
        self.readiness = Readiness(self.database, self.books, self.intake, self.background)

    async def start(self) -> None:
        """Begin to connect, and return at once."""
        await self.database.open()
        stopping = self.background.stopping
        self.background.start("books", self.books.load(stopping))
        self.background.start("schema", self.intake.load_schema(stopping))
        self.background.start("schemas of events", self.event_schemas.load(stopping))
        self.background.start("postings", self.waiter.run(stopping))

    def release_waiting(self) -> None:
        """Let requests that wait for an outcome answer now, because the process is about to end.

        Requests that wait for Kafka get DELIVERY_SECONDS_AT_STOP more for the confirmation; then they are answered 503.
        """
        self.waiter.release()
        self.feed.release()
        asyncio.get_running_loop().call_later(DELIVERY_SECONDS_AT_STOP, self.intake.producer.give_up)

    async def stop(self) -> None:
        """Stop the background work, wait for Kafka to confirm the intents taken, and close all connections."""
        self.background.stopping.set()
        self.waiter.release()
        await self.feed.close()
        self.database.stop_probing()
        await self.background.stop()
        await self.intake.producer.close()
        await self.database.close()
