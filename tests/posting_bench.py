"""A ledger to post to in a test: sends intents to the real topic and posts them with the real poster."""

import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from db.posting import PostingStore
from domain.intents import intent_id_of
from domain.settings import Settings
from domain.topics import Topics
from producers.encoding import encoder, registered_id, registry_client
from streams.decode import IntentDecoder
from streams.fenced import Message, PartitionBatch
from streams.posting.poster import Poster
from streams.posting.service import describe_source

ACCEPTED_TIME = 1_790_000_000_000_000


def leg(account: str, direction: str, amount_minor: int, currency: str = "EUR") -> dict[str, Any]:
    """A leg as Avro has it."""
    return {"account": account, "direction": direction, "amount_minor": amount_minor, "currency": currency}


def intent(key: str, legs: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An intent as Avro has it, a transfer of tenant default by default."""
    record = {
        "intent_id": str(intent_id_of("default", key)),
        "tenant": "default",
        "idempotency_key": key,
        "type": "transfer",
        "legs": legs,
        "reverses": None,
        "value_time": None,
        "reference": None,
        "metadata": {},
        "accepted_time": ACCEPTED_TIME,
    }
    return {**record, **changes}


@dataclass
class PostingBench:
    """Drives a Poster as the Faust worker does: fetched batches in, with what it expects of each lane."""

    settings: Settings
    topics: Topics
    expected: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        registry_url = str(self.settings.registry_url)
        self.bootstrap = str(self.settings.kafka_bootstrap)
        self.dsn = self.settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
        with registry_client(registry_url) as registry:
            schema_id = registered_id(registry, "payments.intents-value")
        self.encode = encoder("payments.intents-value", schema_id)
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 0})
        self._stores: list[PostingStore] = []
        self.poster = self.new_poster()

    def close(self) -> None:
        """Let go of every connection."""
        for store in self._stores:
            store.close()

    def new_poster(self, **options: Any) -> Poster:
        """Another worker on the same ledger."""
        self._stores.append(PostingStore(self.dsn))
        return Poster(
            self._stores[-1],
            IntentDecoder(str(self.settings.registry_url)),
            lambda: describe_source(self.bootstrap, self.topics.intents),
            **options,
        )

    @staticmethod
    def transfer(key: str, debit: str, credit: str, amount_minor: int, currency: str = "EUR", **changes: Any) -> Any:
        """A transfer of two legs."""
        legs = [leg(debit, "debit", amount_minor, currency), leg(credit, "credit", amount_minor, currency)]
        return intent(key, legs, **changes)

    def send(self, record: dict[str, Any], lane: int = 0) -> int:
        """Encode and send an intent; returns its offset."""
        return self.send_bytes(self.encode(record), lane)

    def send_bytes(self, value: bytes | None, lane: int = 0) -> int:
        """Send bytes as they are; returns their offset."""
        offsets: list[int] = []
        self.producer.produce(
            self.topics.intents, value, partition=lane, on_delivery=lambda _, message: offsets.append(message.offset())
        )
        self.producer.flush(10)
        return offsets[0]

    def fetch(self, lanes: tuple[int, ...] = (0, 1), poster: Poster | None = None) -> list[PartitionBatch]:
        """All that the lanes hold past what is posted, as a worker would be handed it."""
        positions = (poster or self.poster).positions(self.topics.intents, lanes)
        source = describe_source(self.bootstrap, self.topics.intents)
        batches = []
        for lane in lanes:
            end = source.end_offsets[lane]
            if end > positions[lane]:
                messages = self._read(lane, positions[lane], end)
                batches.append(PartitionBatch(self.topics.intents, lane, positions[lane], messages, end))
        return batches

    def _read(self, lane: int, start: int, end: int) -> list[Message]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "bench", "enable.auto.commit": False})
        consumer.assign([TopicPartition(self.topics.intents, lane, start)])
        messages: list[Message] = []
        deadline = time.monotonic() + 20
        while len(messages) < end - start:
            assert time.monotonic() < deadline, "the broker did not hand over what it holds"
            for found in consumer.consume(10_000, 1.0):
                messages.append(
                    Message(
                        self.topics.intents,
                        lane,
                        found.offset(),
                        found.timestamp()[1],
                        found.key(),
                        found.value(),
                        found.headers() or [],
                    )  # fmt: skip
                )
        consumer.close()
        return messages

    def post(self, lanes: tuple[int, ...] = (0, 1)) -> list[str]:
        """Post all that is waiting; returns what became of each, in order of lane and offset, as outcome or reason."""
        batches = self.fetch(lanes)
        self.poster.handle(batches)
        starts = {batch.partition: batch.expected_offset for batch in batches}
        fates = []
        for lane, start in starts.items():
            fates += [
                row["reason"] or row["outcome"]
                for row in self.rows(
                    "SELECT * FROM ledger.journal WHERE lane = %s AND source_offset >= %s ORDER BY seq", lane, start
                )
            ]
        return fates

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """What a query finds, as the owner of the database."""
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def balance(self, address: str, currency: str = "EUR") -> int:
        """Debits less credits of an account over all lanes; 0 where it is not open."""
        found = self.rows(
            "SELECT coalesce(sum(debits_minor - credits_minor), 0)::bigint AS balance FROM ledger.balance"
            " JOIN ledger.account USING (account_id) WHERE address = %s AND currency = %s",
            address,
            currency,
        )
        return int(found[0]["balance"])
