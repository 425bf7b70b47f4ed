"""The parts of one API process (pools, producer, books, waiter, keys), and what it still lacks to be ready."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog

from api.addresses import NO_PROXIES, TrustedProxies
from api.authentication import TRUSTED_SECONDS_MAX, Authentication
from api.console.feed import Feed
from api.console.latency import AcceptTimes
from api.cursors import Cursors
from api.gathering import Gathering
from api.intake import IntakeGate
from api.metrics import Metrics
from api.postgres_watch import PostgresWatch
from api.problems import Kind, Problem, unavailable
from api.retrying import Backoff
from api.shares import Shares
from api.waiting import LaneWaiter
from db.access import ApiKey, read_cursor_key
from db.books import Books
from db.connections import DatabaseBusy, DatabaseError, pool
from db.reads import IntentQuestion, IntentState, Pool, Settled, intent_states, read_books, settled_intents
from domain.chart import Chart
from domain.errors import LedgerlineError
from domain.topics import Topics
from producers.encoding import SchemaError, registered_id, registry_client
from producers.intents import SUBJECT, DeliveryError, IntentProducer
from runtime.faults import Fault, no_fault
from runtime.kafka import Kafka
from runtime.positions import PositionReader
from runtime.schema_registry import SchemaRegistry
from runtime.shares import SHARE_BOUNDS, ShareBounds

_CHECK_TIMEOUT_SECONDS: Final = 3.0
_CHECKS_KEPT_SECONDS: Final = 1.0
DELIVERY_SECONDS_AT_STOP: Final = 3.0
_POOL_CLOSE_SECONDS_MAX: Final = 0.5
_POOL_SIZE: Final = 8
ROLE: Final = "ledgerline_api"

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Configuration:
    """The addresses of the API's parts, and the API's limits."""

    kafka: Kafka
    postgres_dsn: str
    registry: SchemaRegistry
    topics: Topics
    body_bytes_max: int = 4_000_000
    intent_bytes_max: int = 1_000_000
    requests_per_minute: int = 60_000
    wait_seconds_max: float = 30.0
    body_seconds_max: float = 30.0
    shares: ShareBounds = SHARE_BOUNDS
    read_seconds_max: float = 3.0
    heavy_read_seconds_max: float = 10.0
    delivery_timeout_seconds: float = 10.0
    queue_intents_max: int = 50_000
    trusted_proxies: TrustedProxies = NO_PROXIES
    documents: bool = True
    """Whether /docs and /openapi.json are served."""
    fault: Fault = no_fault


class Service:
    """The parts of one API process; make it inside the event loop that it serves.

    It starts while Kafka, Postgres or the registry is away, tries again until they answer, and names them at /readyz.
    """

    def __init__(self, configuration: Configuration, metrics: Metrics) -> None:
        self.configuration = configuration
        self.metrics = metrics
        self.pool = pool(
            configuration.postgres_dsn, ROLE, size_max=_POOL_SIZE, statement_seconds_max=configuration.read_seconds_max
        )
        self._heavy_pool = pool(
            configuration.postgres_dsn,
            ROLE,
            size_max=configuration.shares.heavy_reads.in_all,
            statement_seconds_max=configuration.heavy_read_seconds_max,
        )
        metrics.watch_pool(self.pool.get_stats)
        self.shares = Shares(configuration.shares, metrics)
        self.producer = IntentProducer(
            configuration.kafka,
            configuration.topics.intents,
            delivery_timeout_seconds=configuration.delivery_timeout_seconds,
            queue_intents_max=configuration.queue_intents_max,
            fault=configuration.fault,
        )
        self.postgres = PostgresWatch(
            self.pool, configuration.postgres_dsn, ROLE, lambda cause: metrics.database_busy.labels(cause).inc()
        )
        self.intake = IntakeGate(self.producer)
        self.waiter = LaneWaiter(self.pool, configuration.postgres_dsn)
        self.authentication = Authentication(
            self.pool, self.postgres, configuration.requests_per_minute, configuration.trusted_proxies
        )
        self.accept_times = AcceptTimes()
        self.waiter.announced = self.accept_times.announce
        topics = configuration.topics
        make_reader = partial(PositionReader, configuration.kafka, topics.intents, topics.journal)
        self.feed = Feed(self.pool, self.postgres, self.accept_times, make_reader)
        self._settled: dict[str, Gathering[UUID, dict[UUID, Settled]]] = {}
        self._outcomes: dict[str, Gathering[IntentQuestion, dict[IntentQuestion, IntentState]]] = {}
        self._books: Books | None = None
        self._cursors: Cursors | None = None
        self._books_lock = asyncio.Lock()
        self._checks_lock = asyncio.Lock()
        self._checks: tuple[float, dict[str, str]] = (0.0, {})
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to connect, and return at once."""
        await self.pool.open(wait=False)
        await self._heavy_pool.open(wait=False)
        self._spawn("books", self._load_books_at_start())
        self._spawn("schema", self._look_up_schema())
        self._spawn("postings", self.waiter.run(self._stopping))

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def release_waiting(self) -> None:
        """Let requests that wait for an outcome answer now, because the process is about to end.

        Requests that wait for Kafka get DELIVERY_SECONDS_AT_STOP more for the confirmation; then they are answered 503.
        """
        self.waiter.release()
        self.feed.release()
        asyncio.get_running_loop().call_later(DELIVERY_SECONDS_AT_STOP, self.producer.give_up)

    async def close(self) -> None:
        """Stop the background work, wait for Kafka to confirm the intents taken, and close all connections."""
        self._stopping.set()
        self.waiter.release()
        await self.feed.close()
        self.postgres.close()
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("background_task_failed", error=repr(outcome))
        await self.producer.close()
        await self.pool.close(_POOL_CLOSE_SECONDS_MAX)
        await self._heavy_pool.close(_POOL_CLOSE_SECONDS_MAX)

    async def _load_books_at_start(self) -> None:
        backoff = Backoff(self._stopping)
        while self._cursors is None and not self._stopping.is_set():
            try:
                self._books = await read_books(self.pool)
                self._cursors = Cursors(await read_cursor_key(self.pool))
            except DatabaseError as error:
                log.warning("books_not_loaded", error=str(error))
                await backoff.pause()

    async def _look_up_schema(self) -> None:
        backoff = Backoff(self._stopping)
        while not self.producer.has_schema and not self._stopping.is_set():
            try:
                self.producer.use_schema(await asyncio.to_thread(self._registered_id))
            except SchemaError as error:
                log.warning("schema_not_found", error=str(error))
                await backoff.pause()

    def _registered_id(self) -> int:
        with registry_client(self.configuration.registry) as client:
            return registered_id(client, SUBJECT)

    @property
    def books(self) -> Books:
        """The books' frame as last read. Raises Problem until it is loaded."""
        if self._books is None:
            raise unavailable(Kind.NOT_READY, "The books are not loaded yet: Postgres is away or not migrated.")
        return self._books

    @property
    def cursors(self) -> Cursors:
        """The maker and reader of the ledger's cursors. Raises Problem until their secret is loaded."""
        if self._cursors is None:
            raise unavailable(Kind.NOT_READY, "The books are not loaded yet: Postgres is away or not migrated.")
        return self._cursors

    def chart(self, tenant: str) -> Chart:
        """Return the tenant's chart as last read; an empty one for a tenant without a chart."""
        return self.books.charts.get(tenant) or Chart(())

    def units(self, tenant: str) -> dict[str, int]:
        """Return the tenant's registered units, with their exponents, as last read."""
        return self.books.units.get(tenant, {})

    async def read(self, key: ApiKey, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question that reads a few rows for this key.

        Raise Problem if no connection gets free in time for the key, its tenant or all. Raise DatabaseError as
        `postgres.ask` does.
        """
        async with self.shares.reads.turn(key):
            return await self.postgres.ask(partial(question, self.pool))

    async def read_much(self, key: ApiKey, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Do the same as `read` for a question that may take Postgres seconds, over a pool kept for such questions."""
        async with self.shares.heavy_reads.turn(key):
            return await self.postgres.ask(partial(question, self._heavy_pool))

    async def settled(self, tenant: str, intent_ids: Iterable[UUID]) -> dict[UUID, Settled]:
        """Return the outcomes, without legs, of those of these intents that are settled.

        The result also holds intents that other requests asked about in the same query. The query also tells the
        version of the books; a new version is loaded. Raise DatabaseError, at once while Postgres is known to be away.
        """
        if tenant not in self._settled:
            self._settled[tenant] = Gathering(partial(self._look_up_settled, tenant))
        return await self._settled[tenant].ask(intent_ids)

    async def _look_up_settled(self, tenant: str, intent_ids: list[UUID]) -> dict[UUID, Settled]:
        version, known = await self.postgres.ask(partial(settled_intents, self.pool, tenant, intent_ids))
        await self.notice_books_version(version)
        return known

    async def intent_state(self, tenant: str, question: IntentQuestion) -> IntentState:
        """Return what is known of an intent; one query answers all requests of the tenant that ask at the same time.

        Raise DatabaseError, at once while Postgres is known to be away.
        """
        if tenant not in self._outcomes:
            self._outcomes[tenant] = Gathering(partial(self._look_up_intents, tenant))
        return (await self._outcomes[tenant].ask([question]))[question]

    async def _look_up_intents(self, tenant: str, questions: list[IntentQuestion]) -> dict[IntentQuestion, IntentState]:
        return await self.postgres.ask(partial(intent_states, self.pool, tenant, questions))

    def require_schema(self) -> None:
        """Raise Problem until the schema of intents is known."""
        if not self.producer.has_schema:
            raise unavailable(Kind.NOT_READY, "The schema of intents is not known yet: the schema registry is away.")

    async def notice_books_version(self, version: int) -> None:
        """Load the books again if this version is newer than the loaded one."""
        if self.books.version != version:
            async with self._books_lock:
                if self.books.version < version:
                    self._books = await read_books(self.pool)

    async def missing(self) -> dict[str, str]:
        """Return what keeps the process from taking intents: part -> sentence. It checks at most once a second.

        Postgres counts as missing only after TRUSTED_SECONDS_MAX without an answer, or if no books were loaded yet;
        see `degraded`.
        """
        async with self._checks_lock:
            checked_at, found = self._checks
            if not checked_at or time.monotonic() - checked_at > _CHECKS_KEPT_SECONDS:
                found = await self._check()
                self._checks = (time.monotonic(), found)
            return found

    def degraded(self) -> dict[str, str]:
        """Return what is away while intents are still taken, for a limited time: part -> sentence."""
        if self.postgres.away_seconds is None:
            return {}
        return {"postgres": "Postgres does not answer: intents of keys that were seen lately are taken, unseen before."}

    async def _check(self) -> dict[str, str]:
        kafka, postgres = await asyncio.gather(self._kafka_fault(), self._postgres_fault())
        found = {
            "kafka": kafka,
            "postgres": postgres,
            "schema": None if self.producer.has_schema else "The schema of intents was not found in the registry yet.",
            "books": None if self._cursors is not None else "The books are not loaded yet.",
            "tasks": self._task_fault(),
        }
        return {part: fault for part, fault in found.items() if fault is not None}

    def _task_fault(self) -> str | None:
        failed = [task.get_name() for task in self._tasks if task.done() and not task.cancelled() and task.exception()]
        return (
            f"Background work ended by an error of ours: {', '.join(failed)}; restart the process." if failed else None
        )

    async def _kafka_fault(self) -> str | None:
        try:
            await asyncio.to_thread(self.producer.partition_count, _CHECK_TIMEOUT_SECONDS)
        except DeliveryError as error:
            return str(error)
        return None

    async def _postgres_fault(self) -> str | None:
        try:
            self._books = await self.postgres.ask(partial(read_books, self.pool))
        except DatabaseError as error:
            away_seconds = self.postgres.away_seconds or 0.0
            return str(error) if self._books is None or away_seconds > TRUSTED_SECONDS_MAX else None
        return None


def database_problem(error: LedgerlineError) -> Problem:
    """Return the 503 for Postgres that is away or has too much to do."""
    kind = Kind.DATABASE_BUSY if isinstance(error, DatabaseBusy) else Kind.DATABASE_UNAVAILABLE
    return unavailable(kind, f"{error} Nothing was done: the same request may be sent again.")
