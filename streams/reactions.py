"""The part `reactions`: events of the capabilities to the handlers that answer them."""

from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import UUID

from db.connections import Transaction
from domain.effects import Effects, Happened
from domain.events import FAMILIES, Event, name_subject
from domain.times import parse_rfc3339
from domain.topics import Topics
from runtime import tracing
from runtime.schema_registry import SchemaRegistry
from streams.batches import Message
from streams.capabilities import Capability, Reaction
from streams.proof.records.decoding import RecordReader
from streams.reactor import Task, get_header

_TYPE_START: Final = "ledgerline."


class Unusable(Exception):
    """A message on a topic of events is no event."""


class EventReader:
    """Reads events: the attributes from the headers, the data by the writer's schema."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._readers: dict[str, RecordReader] = {}

    def read(self, message: Message) -> Happened:
        """Return the event; raise Unusable, KeyError for a type without schema, and RecordReader's errors."""
        headers = {name: value.decode() for name, value in message.headers if value is not None}
        family, type = split_type(headers.get("ce_type"))
        subject = name_subject(family, type)
        if subject not in self._readers:
            self._readers[subject] = RecordReader(self._registry, subject)
        data = self._readers[subject].read(message.value)
        try:
            event = Event(
                family, type, headers["ce_tenant"], headers["ce_subject"], int(headers["ce_aggregateversion"]), data,
                parse_rfc3339(headers["ce_time"]),
            )  # fmt: skip
            event_id = UUID(headers["ce_id"])
        except (KeyError, ValueError) as error:
            raise Unusable(f"a header is missing or wrong: {error}") from error
        return Happened(event, event_id, headers.get(tracing.CORRELATION_ID), headers.get(tracing.TRACEPARENT))


class Reactions:
    """Makes a task for each handler of an event, in the order of the table."""

    name = "reactions"
    is_joint = False

    def __init__(self, capabilities: Sequence[Capability], topics: Topics, reader: EventReader) -> None:
        self.topics = tuple(topics.name_events(family) for family in FAMILIES)
        self._handlers: dict[str, list[tuple[str, Reaction]]] = {}
        for capability in capabilities:
            for (family, type), handler in capability.reactions.items():
                self._handlers.setdefault(f"{_TYPE_START}{family}.{type}", []).append((capability.name, handler))
        self._types = {name.encode() for name in self._handlers}
        self._reader = reader

    def wants(self, headers: Sequence[tuple[str, bytes | None]]) -> bool:
        """Return whether an event of this type has a handler."""
        for name, value in headers:  # noqa: SIM110 - a generator costs more (streams.outcomes)
            if name == "ce_type" and value in self._types:
                return True
        return False

    def make_tasks(self, message: Message) -> list[Task]:
        """Return one task for each handler of the event's type."""
        type = get_header(message, "ce_type") or ""
        # A message that lacks them is no event: it is parked alone.
        alone = f"{message.topic}/{message.partition}/{message.offset}"
        return [
            Task(
                capability,
                type.rpartition(".")[2],
                get_header(message, "ce_tenant") or "-",
                get_header(message, "ce_subject") or alone,
                partial(self._react, handler, message),
                get_header(message, tracing.CORRELATION_ID),
                get_header(message, tracing.TRACEPARENT),
            )
            for capability, handler in self._handlers.get(type, ())
        ]

    def join_tasks(self, messages: Sequence[Message]) -> Task:
        """Raise: work of this part is done message by message."""
        raise NotImplementedError(f"{len(messages)} messages have no common task")

    def chore(self, transaction: Transaction, now: int) -> None:
        """Do nothing."""

    def _react(self, handler: Reaction, message: Message, transaction: Transaction) -> Effects:
        return handler(transaction, self._reader.read(message))


def split_type(type: str | None) -> tuple[str, str]:
    """Return family and name of an event's type, such as ledgerline.group.UserJoinedGroup; raise Unusable."""
    start, _, rest = (type or "").partition(".")
    family, _, name = rest.partition(".")
    if start != _TYPE_START[:-1] or not family or not name:
        raise Unusable(f"the type is no event's: {type!r}")
    return family, name
