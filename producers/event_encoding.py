"""Encodes the events of the capabilities for the outbox: Avro in the Schema Registry's wire format."""

from db.outbox import EncodedEvent
from domain.events import FAMILIES, Event, name_subject
from domain.topics import SUBJECTS
from producers.encoding import Encoder, make_encoder
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client
from runtime.tracing import Trace


class EventEncoders:
    """Encodes the events of every family. The transaction that appends an event encodes it.

    So a record that does not fit its schema fails the change that made it, and never stops the relay.
    """

    def __init__(self, encoders: dict[str, Encoder]) -> None:
        self._encoders = encoders

    @classmethod
    def find_registered(cls, registry: SchemaRegistry) -> "EventEncoders":
        """Make the encoders with the schema ids that the registry holds. Raise SchemaError if one is missing."""
        topics = tuple(f"{family}.events-" for family in FAMILIES)
        with make_registry_client(registry) as client:
            return cls(
                {
                    subject: make_encoder(subject, find_registered_id(client, subject))
                    for subject in SUBJECTS
                    if subject.startswith(topics)
                }
            )

    def encode(self, event: Event, trace: Trace | None = None) -> EncodedEvent:
        """Return the event for the outbox. Raise KeyError for an event without schema, and fastavro's errors."""
        value = self._encoders[name_subject(event.family, event.type)](dict(event.data))
        if trace is None:
            return EncodedEvent(event, value)
        return EncodedEvent(event, value, trace.correlation_id, trace.traceparent)
