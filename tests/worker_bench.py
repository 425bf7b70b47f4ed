"""A worker whose parts a test drives, with the notes of tests.notes as its capability, or with others."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from db.worker import IntentStore, WorkerConnection
from domain.topics import Topics
from producers.event_encoding import EventEncoders
from producers.handed_over import IntentSender
from producers.intents import IntentProducer
from runtime.settings import Settings
from streams.batches import PartitionBatch
from streams.capabilities import Capability
from streams.clock import Clock
from streams.effects import EffectStore
from streams.reactor import Reactor
from streams.worker import Surroundings, make_reactor
from tests.notes import CAPABILITY, make_tables
from tests.outbox_bench import OutboxBench, relay_all
from tests.proving_bench import ProvingBench

HOUR = 3600 * 1_000_000


class WorkerBench:
    """Appends notes, publishes them, lets the reactor read them, and sends, posts and relays its intents."""

    def __init__(self, settings: Settings, topics: Topics, capabilities: Sequence[Capability] = (CAPABILITY,)) -> None:
        self.outbox = OutboxBench(settings, topics)
        self.books = ProvingBench(settings, topics)
        self.topics = topics
        self.dsn = self.books.dsn
        make_tables(self.dsn)
        self.around = Surroundings(
            self.books.kafka, self.dsn, self.books.registry, topics, settings, capabilities=capabilities
        )
        self.now = 1_790_000_000_000_000
        self._relay = self.outbox.relay()
        self._relay.start()
        self._made: list[WorkerConnection] = []

    def close(self) -> None:
        """Close all connections."""
        for store in self._made:
            store.close()
        self.outbox.close()
        self.books.close()

    def connect(self) -> WorkerConnection:
        """Return a new connection as the worker's role."""
        self._made.append(WorkerConnection(self.dsn))
        return self._made[-1]

    def make_reactor(self) -> Reactor:
        """Return another worker's reactor."""
        made = make_reactor(self.around, ("reactions", "outcomes"))
        made._now = lambda: self.now
        self._made.append(made._store)
        return made

    def make_clock(self) -> Clock:
        """Return another worker's clock."""
        effects = EffectStore(EventEncoders.find_registered(self.books.registry))
        return Clock(self.connect(), self.around.capabilities, effects, lambda: self.now)

    def publish(self, *notes: tuple[str, int, str]) -> None:
        """Append notes (aggregate, version, text), and publish all that waits."""
        if notes:
            self.outbox.append(*(self.outbox.encode(*note) for note in notes))
        relay_all(self._relay)

    def list_batch(self, reactor: Reactor) -> list[PartitionBatch]:
        """Return all that the topics have past the reactor's positions."""
        batch = []
        for topic in reactor.topics:
            partitions = range(len(self.books._admin.list_topics(timeout=10).topics[topic].partitions))
            for partition, start in reactor.positions(topic, partitions).items():
                messages, end = self.read(topic, partition, start)
                if end > start:
                    wanted = [message for message in messages if reactor.wants(message.headers)]
                    batch.append(PartitionBatch(topic, partition, start, wanted, end))
        return batch

    def read(self, topic: str, partition: int, start: int) -> Any:
        """Return the messages of a partition from `start`, with headers, and the partition's end."""
        return self.books.read(topic, partition, start)

    def react(self, reactor: Reactor) -> int:
        """Let a reactor work on all that waits for it; return the number of messages."""
        batch = self.list_batch(reactor)
        if batch:
            reactor.handle(batch)
        return sum(len(part.messages) for part in batch)

    def send(self) -> int:
        """Send all intents that wait."""

        async def send_all() -> int:
            store = IntentStore(self.dsn)
            sender = IntentSender(store, self.books.kafka, self.topics.intents, self.books.registry)
            producer = IntentProducer(self.books.kafka, self.topics.intents)
            sent = 0
            while done := await sender.round(producer):
                sent += done
            await producer.close()
            store.close()
            return sent

        return asyncio.run(send_all())

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, asked as the owner."""
        with psycopg.connect(self.dsn) as admin:
            return admin.execute(query, parameters or None).fetchall()  # type: ignore[arg-type]

    def allow(self, reactor: Reactor) -> None:
        """Let the poison be read from now on, by this reactor."""
        with reactor._store.statements() as connection:
            connection.execute("SET notes.allowed = 'yes'")


def run_for(part: Any, is_done: Any) -> None:
    """Run a part in a thread until a condition holds."""
    stop = threading.Event()
    thread = threading.Thread(target=part.run, args=(stop,))
    thread.start()
    try:
        is_done()
    finally:
        stop.set()
        thread.join(20)
