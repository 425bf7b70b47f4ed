"""The part `outcomes`: what became of the intents of capabilities, from ledger.journal to their handlers.

The relay gives a record of such an intent a header that names the capability. The part reads the header before it
decodes, so the rest of the journal costs it little.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, cast
from uuid import UUID

from db.connections import Transaction
from domain.effects import ORIGIN_HEADER, Effects, Settled, split_own_key
from domain.intents import DIRECTIONS, Leg
from domain.outcomes import Outcome
from domain.topics import Topics
from runtime.schema_registry import SchemaRegistry
from streams.batches import Message
from streams.capabilities import Capability, OutcomeHandler
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable
from streams.reactor import Task, get_header

SETTLED: Final = frozenset({Outcome.POSTED, Outcome.REJECTED})
"""A later delivery of a settled intent is a record too (`duplicate`), and tells nothing new."""
TASK: Final = "outcome"


class Outcomes:
    """Makes the task of a journal record that settles an intent of a capability."""

    name = "outcomes"
    is_joint = False

    def __init__(self, capabilities: Sequence[Capability], topics: Topics, registry: SchemaRegistry) -> None:
        self.topics: tuple[str, ...] = (topics.journal,)
        self._handlers = {item.name: item.outcome for item in capabilities if item.outcome is not None}
        self._origins = {name.encode() for name in self._handlers}
        self._reader = RecordReader(registry, "ledger.journal-value")

    def wants(self, headers: Sequence[tuple[str, bytes | None]]) -> bool:
        """Return whether the record is about an intent of a capability that has a handler."""
        # A generator would cost as much again as all else that happens to an unwanted record.
        for name, value in headers:  # noqa: SIM110 - as above
            if name == ORIGIN_HEADER and value in self._origins:
                return True
        return False

    def make_tasks(self, message: Message) -> list[Task]:
        """Return the task of the capability whose intent the record settles."""
        capability = get_header(message, ORIGIN_HEADER) or ""
        handler = self._handlers.get(capability)
        if handler is None:
            return []
        try:
            record = cast("JournalRecord", self._reader.read(message.value))
        except Unreadable as error:
            alone = f"{message.topic}/{message.partition}/{message.offset}"
            return [Task(capability, TASK, "-", alone, partial(_raise, error))]
        own = split_own_key(record["idempotency_key"] or "")
        # A record that posting makes has a tenant and an intent id whenever it has a key.
        if record["outcome"] not in SETTLED or own is None or record["tenant"] is None or record["intent_id"] is None:
            return []
        settled = _make_settled(record, record["tenant"], UUID(record["intent_id"]), own[1])
        subject = own[1][0] if own[1] else ""
        return [Task(capability, TASK, settled.tenant, subject, partial(_tell, handler, settled))]

    def join_tasks(self, messages: Sequence[Message]) -> Task:
        """Raise: work of this part is done message by message."""
        raise NotImplementedError(f"{len(messages)} messages have no common task")

    def chore(self, transaction: Transaction, now: int) -> None:
        """Do nothing."""


def _make_settled(record: JournalRecord, tenant: str, intent_id: UUID, key_parts: tuple[str, ...]) -> Settled:
    legs = tuple(
        Leg(leg["account"], DIRECTIONS.get(leg["direction"], 0), leg["amount_minor"], leg["currency"])
        for leg in record["legs"]
    )
    return Settled(
        tenant, intent_id, key_parts, Outcome(record["outcome"]), record["reason"], record["detail"], legs,
        record["metadata"], record["booked_time"],
    )  # fmt: skip


def _tell(handler: OutcomeHandler, settled: Settled, transaction: Transaction) -> Effects:
    return handler(transaction, settled)


def _raise(error: Unreadable, transaction: Transaction) -> Effects:  # noqa: ARG001 - as a handler
    raise error
