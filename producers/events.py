"""Send breaks and checkpoints to Kafka at least once. The owner of a row sends it again if it is not acknowledged."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from domain.breaks import Break
from domain.errors import Outage
from producers.encoding import Encoder, make_encoder
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client

BREAKS_SUBJECT: Final = "ledger.breaks-value"
CHECKPOINTS_SUBJECT: Final = "audit.checkpoints-value"


class EventsNotSent(Outage):
    """Kafka did not take the events in time; they stay unpublished and are sent again."""


class EventProducer:
    """Sends events of one kind to one topic. The first send looks up the schema. Not thread-safe."""

    def __init__(
        self, kafka: Kafka, registry: SchemaRegistry, topic: str, subject: str, timeout_seconds: float = 10.0
    ) -> None:
        self._topic = topic
        self._subject = subject
        self._registry = registry
        self._timeout_seconds = timeout_seconds
        self._encode: Encoder | None = None
        self._producer = Producer(
            {
                **kafka.make_client_options(),
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "delivery.timeout.ms": int(timeout_seconds * 1000),
            }
        )

    def send(self, events: Iterable[tuple[bytes | None, Mapping[str, Any]]]) -> None:
        """Send (key, record) pairs in order and wait until all are acknowledged. Raise EventsNotSent if one is not."""
        encode = self._find_encoder()
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        sent = 0
        try:
            for key, record in events:
                self._producer.produce(self._topic, encode(dict(record)), key=key, on_delivery=delivered)
                sent += 1
        except (BufferError, KafkaException) as error:
            raise EventsNotSent(f"Kafka takes no more events for {self._topic}: {error}.") from error
        left = self._producer.flush(self._timeout_seconds)
        if left or failures:
            cause = str(failures[0]) if failures else "no acknowledgement came in time"
            raise EventsNotSent(
                f"Kafka did not take {left or len(failures)} of {sent} events for {self._topic}: {cause}."
            )

    def _find_encoder(self) -> Encoder:
        if self._encode is None:
            with make_registry_client(self._registry) as client:
                self._encode = make_encoder(self._subject, find_registered_id(client, self._subject))
        return self._encode


def make_break_event(item: Break) -> tuple[bytes, dict[str, Any]]:
    """Return the key and the Avro record of a break's present state."""
    record = {
        "break_id": str(item.break_id),
        "found_by": item.found_by,
        "kind": item.kind,
        "subject": item.subject,
        "state": item.state,
        "lane": item.lane,
        "seq": item.seq,
        "detail": item.detail,
        "changed_time": item.changed_time,
        "overdue_time": item.overdue_time,
    }
    return str(item.break_id).encode(), record
