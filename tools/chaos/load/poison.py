"""Messages to Kafka that no API client can send: bytes that are no intents, and intents that the API refuses."""

import random
import threading
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cli.demo.rogues import make_rogues
from domain.topics import Topics
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry

_FLUSH_SECONDS: Final = 0.5
_REJECTED: Final = 4
"""How many of the intents that will be rejected are used. With few keys, most deliveries are duplicates."""
_RANDOM_BYTES_MAX: Final = 200


class Poison:
    """A producer of poison messages. It is idempotent and has no transactions, as every writer of intents."""

    def __init__(self, kafka: Kafka, topics: Topics, registry: SchemaRegistry, tenant: str, seed: int) -> None:
        self._settings: dict[str, Any] = {
            **kafka.make_client_options(),
            "acks": "all",
            "enable.idempotence": True,
            "log_level": 0,  # outages are expected here
        }
        self._topic = topics.intents
        self._random = random.Random(f"{seed}/poison")  # noqa: S311 - a repeatable load, no secret
        rogues = make_rogues(registry, tenant)
        self._values: list[bytes | None] = [rogue.value for rogue in rogues if rogue.outcome == "quarantined"]
        self._values += [rogue.value for rogue in rogues if rogue.outcome == "rejected"][:_REJECTED]
        self._values.append(None)
        self._producer = Producer(self._settings)
        self._lock = threading.Lock()
        self.on_confirmed: Callable[[], None] = lambda: None

    def send(self) -> None:
        """Hand the next message to the producer, which retries the delivery."""
        value = self._random.choice([*self._values, self._random.randbytes(self._random.randint(1, _RANDOM_BYTES_MAX))])
        key = self._random.randbytes(8)
        with self._lock:
            try:
                self._produce(key, value)
            except KafkaException as error:
                if not error.args[0].fatal():
                    raise
                # A crash of the broker broke the producer's sequence. Its queued messages are poison: drop them.
                self._producer = Producer(self._settings)
                self._produce(key, value)

    def _produce(self, key: bytes, value: bytes | None) -> None:
        self._producer.produce(self._topic, value, key=key, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.on_confirmed()

    def flush(self, give_up: Callable[[], bool]) -> int:
        """Wait until all messages are delivered or `give_up` returns true. Return how many are left."""
        with self._lock:
            left = len(self._producer)
            while left and not give_up():
                left = self._producer.flush(_FLUSH_SECONDS)
            return left
