"""A ledger for tests to post to: it sends intents to the real topic and posts them with the real poster."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
import rfc8785
import structlog
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from db.connections import TRANSIENT
from db.posting import PostingStore
from domain.errors import Outage
from domain.intents import DIRECTION_NAMES, Intent, compute_intent_id
from domain.topics import Topics
from ops.embedded.process import wait_until
from producers import intents
from producers.encoding import make_encoder
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings
from streams.decode import IntentDecoder
from streams.fenced import Message, PartitionBatch
from streams.posting.poster import Poster
from streams.posting.published import read_last_published
from streams.posting.reading import IntentReader
from streams.posting.source import TopicLook, describe_source, find_offsets_with_record
from tests.registered import find_schema_id

ACCEPTED_TIME = 1_790_000_000_000_000
TRIES_MAX = 200

Content = Intent | dict[str, Any] | bytes | None
"""The content of a message: an intent in either form, or raw bytes."""


def leg(account: str, direction: str, amount_minor: int, currency: str = "EUR") -> dict[str, Any]:
    """Return a leg as Avro has it."""
    return {"account": account, "direction": direction, "amount_minor": amount_minor, "currency": currency}


def intent(key: str, legs: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return an intent as Avro has it; by default a transfer of tenant default."""
    record = {
        "intent_id": str(compute_intent_id("default", key)),
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


def record_of(asked: Intent) -> dict[str, Any]:
    """Return a domain intent as Avro has it, with the id that follows from its tenant and key."""
    return intents.make_record(asked) | {"intent_id": str(compute_intent_id(asked.tenant, asked.idempotency_key))}


class PostingBench:
    """Drives a Poster as the Faust worker does: it hands over fetched batches with the expected offset of each lane.

    `send` and `post` go through the real topic; `batch` makes a batch as if it had been fetched.
    """

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self.settings = settings
        self.topics = topics
        self.kafka = settings.make_kafka(str(settings.kafka_bootstrap))
        self.registry = settings.make_registry(str(settings.registry_url))
        self.dsn = settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
        self.schema_id = find_schema_id(self.registry, "payments.intents-value")
        self.encode = make_encoder("payments.intents-value", self.schema_id)
        self.producer = Producer({**self.kafka.make_client_options(), "enable.idempotence": True, "linger.ms": 0})
        self._stores: list[PostingStore] = []
        self._decoders: list[IntentDecoder] = []
        # By default structlog formats tracebacks with rich, which takes a second for each.
        structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.KeyValueRenderer()])
        self.poster = self.new_poster()

    def close(self) -> None:
        """Close every connection."""
        for used in (*self._stores, *self._decoders):
            used.close()

    def new_poster(self, *, registry: SchemaRegistry | None = None, **options: Any) -> Poster:
        """Make another worker on the same ledger."""
        self._stores.append(PostingStore(self.dsn))
        self._decoders.append(IntentDecoder(registry or self.registry))
        return Poster(
            self._stores[-1],
            IntentReader(self._decoders[-1]),
            partial(describe_source, self.kafka, self.topics.intents),
            partial(find_offsets_with_record, self.kafka, self.topics.intents),
            **{
                "published": partial(read_last_published, self.kafka, self.topics.journal),
                "ask_topic_id": TopicLook(self.kafka, self.topics.intents).ask,
                **options,
            },
        )

    @staticmethod
    def transfer(key: str, debit: str, credit: str, amount_minor: int, currency: str = "EUR", **changes: Any) -> Any:
        """Return a transfer of two legs."""
        legs = [leg(debit, "debit", amount_minor, currency), leg(credit, "credit", amount_minor, currency)]
        return intent(key, legs, **changes)

    # ------------------------------------------------------------------------------------------ to Kafka and back

    def value(self, content: Content) -> bytes | None:
        """Return the bytes of a message."""
        if isinstance(content, Intent):
            content = record_of(content)
        return self.encode(content) if isinstance(content, dict) else content

    def send(self, content: Content, lane: int = 0) -> int:
        """Encode and send an intent; return its offset."""
        return self.send_bytes(self.value(content), lane)

    def send_bytes(self, value: bytes | None, lane: int = 0, **message: Any) -> int:
        """Send raw bytes; return their offset."""
        return self.send_all([value], lane, **message)[0]

    def send_all(self, contents: Iterable[Content], lane: int = 0, **message: Any) -> list[int]:
        """Send many contents at once; return their offsets."""
        offsets: list[int] = []

        def delivered(error: KafkaError | None, sent: Any) -> None:
            assert error is None, error
            offsets.append(sent.offset())

        count = 0
        for content in contents:
            value = self.value(content)
            self.producer.produce(self.topics.intents, value, partition=lane, on_delivery=delivered, **message)
            self.producer.poll(0)
            count += 1
        assert self.producer.flush(30) == 0
        assert len(offsets) == count
        return offsets

    def send_transaction(self, contents: Sequence[Content], lane: int = 0, *, commit: bool) -> int:
        """Send with a transactional producer, which must not write here; return the lane's end behind the marker."""
        end = describe_source(self.kafka, self.topics.intents).end_offsets[lane] + len(contents) + 1
        producer = Producer({**self.kafka.make_client_options(), "transactional.id": f"{self.topics.prefix}rogue"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for content in contents:
            producer.produce(self.topics.intents, self.value(content), partition=lane)
        assert producer.flush(30) == 0
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

        def is_marked() -> bool:
            """Return whether the marker is there: the broker writes it after it answered the commit or abort."""
            return describe_source(self.kafka, self.topics.intents).end_offsets[lane] == end

        eventually(is_marked, "the end of the transaction is marked")
        return end

    def fetch(self, lanes: tuple[int, ...] = (0, 1), poster: Poster | None = None) -> list[PartitionBatch]:
        """Return everything in the lanes that is not posted yet, as a worker would get it."""
        positions = self.take_over(lanes, poster)
        source = describe_source(self.kafka, self.topics.intents)
        batches = []
        for lane in lanes:
            end = source.end_offsets[lane]
            if end > positions[lane]:
                messages = self._read(lane, positions[lane])
                batches.append(PartitionBatch(self.topics.intents, lane, positions[lane], messages, end))
        return batches

    def take_over(self, lanes: Sequence[int] = (0, 1), poster: Poster | None = None) -> dict[int, int]:
        """Return the lanes' positions, as a worker asks for them. Try again while a new topic lacks its leaders."""

        def ask() -> dict[int, int] | None:
            try:
                return (poster or self.poster).positions(self.topics.intents, lanes)
            except Outage:
                return None

        found: dict[int, int] = eventually(ask, f"Kafka tells of {self.topics.intents}")
        return found

    def _read(self, lane: int, start: int) -> list[Message]:
        messages = read_partition(self.kafka, self.topics.intents, lane, start)
        return [
            Message(found.topic(), lane, found.offset(), found.timestamp()[1], found.key(), found.value(),
                    found.headers() or [])
            for found in messages
        ]  # fmt: skip

    def post(self, lanes: tuple[int, ...] = (0, 1), poster: Poster | None = None) -> list[str]:
        """Post everything that waits; return the outcome or the reason of each, in order of lane and offset."""
        batches = self.fetch(lanes, poster)
        (poster or self.poster).handle(batches)
        return [fate for batch in batches for fate in self.fates(batch.partition, batch.expected_offset)]

    # ------------------------------------------------------------------------------------------ without Kafka

    def batch(self, contents: Sequence[Content], lane: int = 0, start: int | None = None) -> PartitionBatch:
        """Make a batch as if fetched. It starts at the lane's next offset in Postgres, unless `start` is given."""
        if not self.stands(lane):
            self.take_over([lane])
        first = self.stands(lane)[0]["next_offset"] if start is None else start
        messages = [
            Message(self.topics.intents, lane, first + number, 0, None, self.value(content), ())
            for number, content in enumerate(contents)
        ]
        return PartitionBatch(self.topics.intents, lane, first, messages, first + len(messages))

    def stands(self, lane: int) -> list[dict[str, Any]]:
        """Return the lane's row in a list, or an empty list."""
        return self.rows("SELECT * FROM ledger.lane WHERE lane = %s", lane)

    def post_now(self, contents: Sequence[Content], lane: int = 0, poster: Poster | None = None) -> list[str]:
        """Post these as one batch that never was in Kafka; return the outcome or the reason of each."""
        made = self.batch(contents, lane)
        (poster or self.poster).handle([made])
        return self.fates(lane, made.expected_offset)

    def persist(self, poster: Poster, made: PartitionBatch) -> int:
        """Post a batch as the worker does; return the number of tries.

        After a transient error, try again with the messages that are not in Postgres yet.
        """
        for tries in range(1, TRIES_MAX):
            try:
                poster.handle([made])
            except TRANSIENT:
                stands = self.stands(made.partition)[0]["next_offset"]
                left = [message for message in made.messages if message.offset >= stands]
                if not left:
                    return tries
                made = made._replace(expected_offset=stands, messages=left)
            else:
                return tries
        raise AssertionError(f"not posted in {TRIES_MAX} tries")

    # ------------------------------------------------------------------------------------------ what the ledger holds

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a query, run as the owner of the database."""
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def fates(self, lane: int = 0, first_offset: int = 0) -> list[str]:
        """Return the result of each offset of a lane: the reason if there is one, else the outcome."""
        found = self.rows(
            "SELECT outcome, reason FROM ledger.journal JOIN ledger.lane USING (lane)"
            " WHERE lane = %s AND first_offset + seq >= %s ORDER BY seq",
            lane,
            first_offset,
        )
        return [row["reason"] or row["outcome"] for row in found]

    def balance(self, address: str, currency: str = "EUR") -> int:
        """Return debits less credits of an account over all lanes; 0 if the account is not open."""
        found = self.rows(
            "SELECT coalesce(sum(debits_minor) - sum(credits_minor), 0) AS balance FROM ledger.balance"
            " JOIN ledger.account USING (account_id) WHERE address = %s AND currency = %s",
            address,
            currency,
        )
        return int(found[0]["balance"])

    def verify(self) -> None:
        """Check everything that must hold of any ledger at any time, from the tables and without the poster's code."""
        for lane in self.rows("SELECT * FROM ledger.lane ORDER BY lane"):
            head, seq = bytes(32), 0
            for record in self.records(lane["lane"]):
                place = f"lane {lane['lane']} seq {seq}"
                assert (record["seq"], record["source_offset"]) == (seq, lane["first_offset"] + seq), place
                assert record["previous_hash"] == head, place
                head, seq = hash_of(record), seq + 1
                assert record["hash"] == head, place
            assert (lane["next_seq"], lane["next_offset"]) == (seq, lane["first_offset"] + seq)
            assert lane["head"] == head
        assert self.rows("SELECT currency FROM ledger.entry GROUP BY 1 HAVING sum(direction * amount_minor) <> 0") == []
        assert self.rows(_SHARDS_THAT_DIFFER) == []
        assert self.rows(_SETTLED_TWICE) == []
        assert self.rows(_BELOW_FLOOR) == []
        assert self.rows(_QUARANTINED_WITHOUT_BYTES) == []

    def records(self, lane: int) -> Iterator[dict[str, Any]]:
        """Yield the lane's journal rows in order, with their legs."""
        legs: dict[int, list[dict[str, Any]]] = {}
        for entry in self.rows(
            "SELECT seq, address, direction, amount_minor, currency FROM ledger.entry JOIN ledger.account"
            " USING (account_id) WHERE lane = %s ORDER BY seq, leg",
            lane,
        ):
            legs.setdefault(entry["seq"], []).append(entry)
        for row in self.rows(RECORDS, lane):
            assert len(legs.get(row["seq"], [])) == row["leg_count"]
            yield {**row, "legs": legs.get(row["seq"], [])}


RECORDS = """
    SELECT j.*, l.topic AS source_topic, l.first_offset + j.seq AS source_offset,
           coalesce(lag(j.hash) OVER (ORDER BY j.seq), decode(repeat('00', 32), 'hex')) AS previous_hash
    FROM ledger.journal AS j JOIN ledger.lane AS l ON l.lane = j.lane WHERE j.lane = %s ORDER BY j.seq
"""
_SHARDS_THAT_DIFFER = """
    SELECT account_id, currency, lane FROM (
        SELECT account_id, currency, lane, debits_minor, credits_minor, seq, 0 AS entered FROM ledger.balance
        UNION ALL
        SELECT account_id, currency, lane, sum(amount_minor) FILTER (WHERE direction = 1),
               sum(amount_minor) FILTER (WHERE direction = -1), max(seq), 1
        FROM ledger.entry GROUP BY account_id, currency, lane
    ) GROUP BY 1, 2, 3
    HAVING count(DISTINCT (coalesce(debits_minor, 0), coalesce(credits_minor, 0), seq)) <> 1 OR count(*) <> 2
"""
_SETTLED_TWICE = """
    SELECT tenant, intent_id FROM ledger.journal WHERE outcome IN ('posted', 'rejected')
    GROUP BY 1, 2 HAVING count(*) > 1
"""
# Only floors of 0 or less are checked: an account with a positive floor starts below it.
_BELOW_FLOOR = """
    SELECT address FROM ledger.balance JOIN ledger.account USING (account_id) WHERE floor_minor <= 0
    GROUP BY address, currency, normal_direction, floor_minor
    HAVING (sum(debits_minor) - sum(credits_minor)) * normal_direction < floor_minor
"""
_QUARANTINED_WITHOUT_BYTES = """
    SELECT lane, seq FROM ledger.journal FULL JOIN ledger.quarantine USING (lane, seq)
    WHERE (outcome = 'quarantined') IS DISTINCT FROM (headers IS NOT NULL)
"""


def hash_of(row: dict[str, Any]) -> bytes:
    """Return the hash of a journal row with its legs, computed from the documented members only."""
    members = {
        **{name: row[name] for name in ("lane", "seq", "source_topic", "source_offset", "outcome", "reason", "detail")},
        **{name: row[name] for name in ("tenant", "idempotency_key", "type", "reference", "value_time", "booked_time")},
        "intent_id": row["intent_id"] and str(row["intent_id"]),
        "reverses": row["reverses"] and str(row["reverses"]),
        "metadata": row["metadata"] or {},
        "fingerprint": row["fingerprint"].hex(),
        "legs": [
            {
                "account": each["address"],
                "direction": DIRECTION_NAMES[each["direction"]],
                "amount_minor": str(each["amount_minor"]),
                "currency": each["currency"],
            }
            for each in row["legs"]
        ],
    }
    return hashlib.sha256(row["previous_hash"] + rfc8785.dumps(members)).digest()


def read_partition(kafka: Kafka, topic: str, partition: int, start: int = 0, **options: str) -> list[Any]:
    """Return all records of a partition from an offset to its present end, as a read_committed reader sees them."""
    consumer = Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "bench",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    found = []
    deadline = time.monotonic() + 30
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is None:
                found.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                return found
    finally:
        consumer.close()
    raise AssertionError(f"the end of {topic} [{partition}] was not reached in time")


def eventually(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Try a condition again and again; return its first true result. Raise AssertionError after `seconds`."""
    answers: list[Any] = []

    def holds() -> bool:
        answers[:] = [condition()]
        return bool(answers[0])

    assert wait_until(holds, timeout_seconds=seconds), f"not within {seconds} seconds: {what}"
    return answers[0]
