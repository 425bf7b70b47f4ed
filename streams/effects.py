"""Store what handlers ask for, in their transaction: events in the outbox, intents for the sender, outside calls."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from db import outside_calls
from db import worker as db
from db.connections import Transaction
from db.outbox import append
from domain.effects import Effects
from producers.event_encoding import EventEncoders
from producers.intents import make_record


class Caused(NamedTuple):
    """The effects of one handler's call, and where they come from."""

    capability: str
    effects: Effects
    correlation_id: str | None = None
    traceparent: str | None = None


class EffectStore:
    """Stores effects. An event without a schema, or one that does not fit its schema, fails its own handler."""

    def __init__(self, encoders: EventEncoders) -> None:
        self._encoders = encoders

    def store(self, transaction: Transaction, caused: Iterable[Caused]) -> None:
        """Store all effects. It is the last step of a transaction, because it locks lanes of the outbox."""
        several: Sequence[Caused] = list(caused)
        intents = [
            db.HandedOver(intent, item.capability, make_record(intent), item.correlation_id, item.traceparent)
            for item in several
            for intent in item.effects.intents
        ]
        if intents:
            db.hand_over(transaction, intents)
        calls = [call for item in several for call in item.effects.calls]
        if calls:
            outside_calls.add(transaction, calls)
        events = [
            self._encoders.encode(event)._replace(correlation_id=item.correlation_id, traceparent=item.traceparent)
            for item in several
            for event in item.effects.events
        ]
        if events:
            append(transaction, events)
