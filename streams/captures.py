"""The part `webhooks`: journal records and events become deliveries of the webhooks that want them.

It wants all records while there are webhooks, and none otherwise, so a ledger without webhooks does not pay for them. A
new webhook gets what is read from the topics about a second after its creation.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from db.connections import Transaction
from domain.effects import Effects
from domain.events import FAMILIES
from domain.topics import Topics
from domain.webhooks import Message as Captured
from domain.webhooks import make_event_message, make_journal_message
from runtime.schema_registry import SchemaRegistry
from streams import webhooks
from streams.batches import Message
from streams.proof.records.decoding import RecordReader
from streams.reactions import EventReader
from streams.reactor import Task

CAPABILITY: Final = "webhooks"
TASK: Final = "capture"
PRUNE_SECONDS: Final = 60.0
SHOW_SECONDS: Final = 5.0


class Captures:
    """Captures the messages of a batch together, as one statement costs as much for one message as for many."""

    name = "webhooks"
    is_joint = True

    def __init__(self, topics: Topics, registry: SchemaRegistry, kept_days: int) -> None:
        """`kept_days`: how long settled messages are kept, for replays."""
        self.topics = (topics.journal, *(topics.name_events(family) for family in FAMILIES))
        self._journal = topics.journal
        self._records = RecordReader(registry, "ledger.journal-value")
        self._events = EventReader(registry)
        self._capture = webhooks.Capture()
        self._kept_days = kept_days
        self._is_wanted = True  # until the first look: a worker that starts must not pass over what waits
        self._show_due = 0.0
        self._prune_due = 0.0

    def wants(self, headers: Sequence[tuple[str, bytes | None]]) -> bool:  # noqa: ARG002 - filters need the data
        """Return whether there are webhooks, as the last chore saw."""
        return self._is_wanted

    def make_tasks(self, message: Message) -> list[Task]:
        """Return the task that captures one message alone. It is parked alone, and holds up no other."""
        place = f"{message.topic}/{message.partition}/{message.offset}"
        return [Task(CAPABILITY, TASK, "-", place, partial(self._run, [message]))]

    def join_tasks(self, messages: Sequence[Message]) -> Task:
        """Return the task that captures many messages."""
        return Task(CAPABILITY, TASK, "-", "many", partial(self._run, list(messages)))

    def chore(self, transaction: Transaction, now: int) -> None:
        """Look if there are webhooks; at times also show what waits, and delete a page of old messages."""
        self._is_wanted = self._capture.refresh(transaction)
        if time.monotonic() >= self._show_due:
            self._show_due = time.monotonic() + SHOW_SECONDS
            webhooks.show_metrics(transaction)
        if time.monotonic() >= self._prune_due:
            self._prune_due = time.monotonic() + PRUNE_SECONDS
            webhooks.remove_old(transaction, now, self._kept_days)

    def _run(self, messages: Sequence[Message], transaction: Transaction) -> Effects:
        if not self._capture.refresh(transaction):
            return Effects()
        captured = [found for message in messages if (found := self._read(message)) is not None]
        return self._capture(transaction, captured, time.time_ns() // 1000)

    def _read(self, message: Message) -> Captured | None:
        if message.topic == self._journal:
            return make_journal_message(self._records.read(message.value))
        happened = self._events.read(message)
        return make_event_message(happened.event, happened.event_id)
