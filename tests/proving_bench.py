"""A posted and relayed ledger for tests of the provers. Agents are driven as the Faust worker drives them."""

import time
from collections.abc import Iterable
from typing import Any

import psycopg
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from db.relay import RelayStore
from domain.topics import Topics
from producers.encoding import make_encoder
from producers.relay import Relay
from producers.relay_core import RelayOptions
from runtime.settings import Settings
from streams.fenced import BatchHandler, Message, PartitionBatch
from tests.posting_bench import PostingBench, eventually
from tests.registered import find_encoders, find_schema_id


def make_connected_producer(options: dict[str, Any]) -> Producer:
    """Make a producer that is connected: another one may wait for half a second before it finds its coordinator."""
    producer = Producer(options)
    producer.list_topics(timeout=30)
    return producer


class ProvingBench(PostingBench):
    """Posts, relays, and lets agents read. `tamper` changes the database without any check."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        super().__init__(settings, topics)
        schema_id = find_schema_id(self.registry, "ledger.journal-value")
        self.encode_journal = make_encoder("ledger.journal-value", schema_id)
        options = RelayOptions(self.kafka, topics)
        encoders = find_encoders(self.registry)
        self.relay = Relay(RelayStore(self.dsn), encoders, options, make_producer=make_connected_producer)
        self._relay_runs = False
        self._admin = AdminClient(self.kafka.make_client_options())
        relayed = (topics.journal, topics.frame, topics.quarantine)
        known = self._admin.list_topics(timeout=10).topics
        self._partitions = [TopicPartition(name, number) for name in relayed for number in known[name].partitions]

    def close(self) -> None:
        self.relay.close()
        super().close()

    def post_and_relay(self) -> list[str]:
        """Post everything that waits, and relay it to the journal's topic."""
        fates = self.post()
        self.relay_all()
        return fates

    def relay_all(self) -> None:
        """Relay everything, and wait until a read_committed reader gets it."""
        if not self._relay_runs:
            self.relay.start()
            self._relay_runs = True
        while self.relay.round():
            pass
        # A commit is done when its coordinator has stored it. The partitions learn of it a moment later.
        eventually(
            lambda: self._ends(IsolationLevel.READ_COMMITTED) == self._ends(IsolationLevel.READ_UNCOMMITTED),
            "what was committed can be read",
        )

    def _ends(self, level: IsolationLevel) -> list[int]:
        asked = {partition: OffsetSpec.latest() for partition in self._partitions}
        answers = self._admin.list_offsets(asked, isolation_level=level)
        return [answers[partition].result(10).offset for partition in self._partitions]

    def read(self, topic: str, lane: int, start: int, *, committed: bool = True) -> tuple[list[Message], int]:
        """Return the messages of a partition from `start`, and the partition's end."""
        level = "read_committed" if committed else "read_uncommitted"
        options = {
            **self.kafka.make_client_options(),
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
        }
        consumer = Consumer({**options, "isolation.level": level, "enable.partition.eof": True})
        consumer.assign([TopicPartition(topic, lane, start)])
        messages: list[Message] = []
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for found in consumer.consume(10_000, 0.02):
                if found.error() is not None:
                    assert found.error().code() == KafkaError._PARTITION_EOF, found.error()
                    end = consumer.position([TopicPartition(topic, lane)])[0].offset
                    consumer.close()
                    return messages, max(end, start)
                messages.append(
                    Message(
                        topic,
                        lane,
                        found.offset(),
                        found.timestamp()[1],
                        found.key(),
                        found.value(),
                        found.headers() or [],
                    )
                )
        raise AssertionError("the broker did not hand over what it holds")

    def feed(self, handler: BatchHandler, lanes: Iterable[int] = (0, 1)) -> int:
        """Give an agent everything in the journal's topic past its positions; return the number of records."""
        positions = handler.positions(self.topics.journal, lanes)
        batch = []
        for lane, start in positions.items():
            messages, end = self.read(self.topics.journal, lane, start)
            if end > start:
                batch.append(PartitionBatch(self.topics.journal, lane, start, messages, end))
        if batch:
            handler.handle(batch)
        return sum(len(part.messages) for part in batch)

    def put_record(self, record: dict[str, Any]) -> None:
        """Put a journal record on the topic without the relay."""
        producer = Producer(self.kafka.make_client_options())
        producer.produce(self.topics.journal, self.encode_journal(record), partition=record["lane"])
        assert producer.flush(10) == 0

    def tamper(self, statement: str, *parameters: Any) -> None:
        """Change what no one may change: run a statement as the owner, with triggers off."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(statement, parameters)  # type: ignore[arg-type]

    def breaks(self, agent: str, *states: str) -> dict[tuple[str, str], str]:
        """Return (kind, subject) -> state of an agent's breaks in these states.

        Without states, return unresolved breaks.
        """
        rows = self.rows(
            f"SELECT kind, subject, state FROM {agent}.break WHERE state = ANY(%s)",  # noqa: S608
            list(states) or ["open", "explained"],
        )
        return {(row["kind"], row["subject"]): row["state"] for row in rows}
