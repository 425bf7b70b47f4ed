"""A client that reaches the broker by the proxy's listener stays behind the proxy; Postgres takes extra settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from ops.embedded.ports import LOOPBACK, pick_free
from ops.embedded.stack import EmbeddedStack, Endpoints
from runtime.settings import REPOSITORY_ROOT
from tools.chaos.proxy import Proxy

CACHE = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
TOPIC = "behind"
PATIENCE_SECONDS = 60.0
PAYLOAD_BYTES = 10_000
MESSAGES = 50


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy((LOOPBACK, pick_free())) as running:
        yield running


@pytest.fixture(scope="module")
def parts(stack: Endpoints, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A broker with a second listener, behind the proxy, and a database with the test's own settings."""
    made = EmbeddedStack(
        tmp_path_factory.mktemp("doors"),
        cache=CACHE,
        registry=stack.registry_url,
        kafka_listeners={"WORKERS": (proxy.target[1], proxy.port)},
        postgres_settings={"track_commit_timestamp": "on", "max_connections": "60"},
    )
    with made:
        admin = AdminClient({"bootstrap.servers": made.kafka.bootstrap})
        for topic in admin.create_topics([NewTopic(TOPIC, num_partitions=2, replication_factor=1)]).values():
            topic.result(PATIENCE_SECONDS)
        yield made


@pytest.fixture
def door(parts: EmbeddedStack, proxy: Proxy) -> Iterator[str]:
    """The bootstrap address at the proxy. The proxy passes traffic at the beginning and at the end."""
    proxy.pass_through()
    yield f"{LOOPBACK}:{proxy.port}"
    proxy.pass_through()


def new_producer(bootstrap: str) -> Producer:
    return Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})


def send(producer: Producer) -> list[Message]:
    """Hand messages to the producer; return a list that collects the messages that the broker confirms."""
    confirmed: list[Message] = []
    for number in range(MESSAGES):
        producer.produce(
            TOPIC,
            os.urandom(PAYLOAD_BYTES),
            partition=number % 2,
            on_delivery=lambda error, message: confirmed.append(message) if error is None else None,
        )
    return confirmed


def new_consumer(bootstrap: str) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"readers-{os.urandom(4).hex()}",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe([TOPIC])
    return consumer


def read(consumer: Consumer, seconds: float) -> int:
    """Return how many messages come within the time, MESSAGES at most."""
    return sum(message.error() is None for message in consumer.consume(MESSAGES, timeout=seconds))


def test_producer_and_consumer_only_ever_go_through_it(proxy: Proxy, door: str) -> None:
    up, down = proxy.bytes_up, proxy.bytes_down
    producer = new_producer(door)
    confirmed = send(producer)
    assert producer.flush(PATIENCE_SECONDS) == 0
    assert len(confirmed) == MESSAGES
    assert proxy.bytes_up - up >= MESSAGES * PAYLOAD_BYTES
    consumer = new_consumer(door)
    assert read(consumer, PATIENCE_SECONDS) == MESSAGES
    assert proxy.bytes_down - down >= MESSAGES * PAYLOAD_BYTES

    proxy.refuse()
    late = send(producer)
    assert producer.flush(3) == MESSAGES
    assert (late, read(consumer, 3)) == ([], 0)

    proxy.pass_through()
    assert producer.flush(PATIENCE_SECONDS) == 0
    assert len(late) == MESSAGES
    assert read(consumer, PATIENCE_SECONDS) == MESSAGES
    consumer.close()


async def test_the_workers_client_goes_through_it_too(parts: EmbeddedStack, proxy: Proxy, door: str) -> None:
    direct = new_producer(parts.kafka.bootstrap)
    up, down = proxy.bytes_up, proxy.bytes_down
    send(direct)
    assert direct.flush(PATIENCE_SECONDS) == 0
    assert proxy.bytes_up - up < PAYLOAD_BYTES, "the ordinary door is another one"
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=door, group_id="workers", auto_offset_reset="earliest")
    await consumer.start()
    try:
        found = 0
        while found < MESSAGES:
            batches = await consumer.getmany(timeout_ms=1000)
            found += sum(len(messages) for messages in batches.values())
        assert proxy.bytes_down - down >= MESSAGES * PAYLOAD_BYTES
    finally:
        await consumer.stop()


def test_postgres_takes_further_settings(parts: EmbeddedStack) -> None:
    with psycopg.connect(parts.postgres.dsn) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone() for name in ("track_commit_timestamp", "max_connections")
        ]
    assert shown == [("on",), ("60",)]


def test_the_doors_are_there_after_a_crash(parts: EmbeddedStack, door: str) -> None:
    parts.kafka.kill()
    parts.kafka.start()
    producer = new_producer(door)
    confirmed = send(producer)
    assert producer.flush(PATIENCE_SECONDS) == 0
    assert len(confirmed) == MESSAGES
