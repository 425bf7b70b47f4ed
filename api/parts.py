"""The parts of one API process, and the order in which they start and stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from api.authentication import Authentication
from api.background import Background
from api.configuration import Configuration
from api.console.feed import Feed
from api.console.latency import AcceptTimes
from api.database import Database
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


@dataclass(frozen=True)
class Parts:
    """What the routes of one process use. `api.callers` gives each route only the parts that it needs."""

    configuration: Configuration
    metrics: Metrics
    shares: Shares
    database: Database
    books: KnownBooks
    authentication: Authentication
    waiter: LaneWaiter
    outcomes: Outcomes
    intake: Intake
    submission: Submission
    feed: Feed
    readiness: Readiness

    def release_waiting(self) -> None:
        """Let requests that wait for an outcome answer now, because the process is about to end.

        Requests that wait for Kafka get DELIVERY_SECONDS_AT_STOP more for the confirmation; then they are answered 503.
        """
        self.waiter.release()
        self.feed.release()
        asyncio.get_running_loop().call_later(DELIVERY_SECONDS_AT_STOP, self.intake.producer.give_up)


@asynccontextmanager
async def running_parts(configuration: Configuration, metrics: Metrics) -> AsyncIterator[Parts]:
    """Start the parts and return at once, also while Kafka, Postgres or the registry is away; stop them at the end.

    The parts try again until these answer, and /readyz names those that do not. At the end Kafka gets the time to
    confirm the intents taken.
    """
    background = Background()
    shares = Shares(configuration.shares, metrics)
    database = Database(configuration, shares, metrics)
    books = KnownBooks(database)
    authentication = Authentication(database, configuration.requests_per_minute, configuration.trusted_proxies)
    accept_times = AcceptTimes()
    waiter = LaneWaiter(database.pool, configuration.postgres_dsn, accept_times.announce)
    outcomes = Outcomes(database, books, waiter, metrics)
    intake = Intake(configuration)
    submission = Submission(database, books, outcomes, intake, accept_times, metrics)
    topics = configuration.topics
    make_reader = partial(PositionReader, configuration.kafka, topics.intents, topics.journal)
    feed = Feed(database, accept_times, make_reader)
    readiness = Readiness(database, books, intake, background)

    await database.open()
    background.start("books", books.load(background.stopping))
    background.start("schema", intake.load_schema(background.stopping))
    background.start("postings", waiter.run(background.stopping))
    try:
        yield Parts(
            configuration,
            metrics,
            shares,
            database,
            books,
            authentication,
            waiter,
            outcomes,
            intake,
            submission,
            feed,
            readiness,
        )
    finally:
        background.stopping.set()
        waiter.release()
        await feed.close()
        database.stop_probing()
        await background.stop()
        await intake.producer.close()
        await database.close()
