"""Turn messages into events: decoding needs no books, and screening needs them."""

from hashlib import sha256
from typing import Final, NamedTuple

import structlog

from db.books import Books
from domain.decision import Event
from domain.fingerprint import compute_fingerprint
from domain.intents import Intent
from domain.outcomes import QuarantineReason
from domain.screening import find_identity_fault, refuse_by_books, refuse_shape
from runtime.tracing import find_correlation_id
from streams.decode import IntentDecoder, Undecodable
from streams.fenced import Message

logger: Final = structlog.get_logger(__name__)

NO_RECORD_DETAIL: Final = (
    "No record was committed at this offset: a transaction was aborted here, or its end was marked."
)


class Work(NamedTuple):
    """One message, and the event that was decoded from it."""

    message: Message
    event: Event

    @property
    def offset(self) -> int:
        """The offset of the message."""
        return self.message.offset

    @property
    def timestamp_ms(self) -> int:
        """The timestamp of the message, in milliseconds since 1970."""
        return self.message.timestamp_ms


class IntentReader:
    """Reads messages one by one."""

    def __init__(self, decoder: IntentDecoder) -> None:
        self._decoder = decoder

    def prepare(self, message: Message) -> Work | Message:
        """Read a message ahead; return it unchanged if `read` would have to ask the registry."""
        return self.read(message) if self._decoder.is_ready_for(message.value) else message

    def read(self, message: Message) -> Work:
        """Decode a message, check its tenant and key, and judge what needs no books."""
        try:
            intent = self._decoder.decode(message.value)
        except Undecodable as undecodable:
            return Work(message, make_quarantined_event(message, undecodable.reason, str(undecodable)))
        try:
            return self._judge(message, intent)
        except Exception as error:  # a bug that only this intent triggers must not end the consumer
            logger.exception(
                "unreadable",
                lane=message.partition,
                offset=message.offset,
                correlation_id=find_correlation_id(message.headers),
            )
            detail = f"The intent breaks its reading: {type(error).__name__}."
            return Work(message, make_quarantined_event(message, QuarantineReason.POISON, detail))

    def _judge(self, message: Message, intent: Intent) -> Work:
        fault = find_identity_fault(intent)
        if fault is not None:
            return Work(message, make_quarantined_event(message, QuarantineReason.IDENTITY_MISMATCH, fault))
        fingerprint = compute_fingerprint(
            intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference, intent.metadata
        )
        return Work(message, Event(message.partition, message.offset, fingerprint, intent, refuse_shape(intent)))


def make_work_without_record(topic: str, lane: int, offset: int) -> Work:
    """Return the work for an offset without a committed record: each offset gets a fate, so that all can be counted."""
    message = Message(topic, lane, offset, 0, None, None, ())
    return Work(message, make_quarantined_event(message, QuarantineReason.NO_RECORD, NO_RECORD_DETAIL))


def judge_by_books(work: Work, books: Books) -> Work:
    """Judge the event by the books.

    An intent of an unknown tenant is quarantined. Any other event that was refused before stays refused.
    """
    intent = work.event.intent
    if intent is None:
        return work
    chart = books.charts.get(intent.tenant)
    if chart is None:
        detail = f"The books know no tenant {intent.tenant}."
        return work._replace(event=make_quarantined_event(work.message, QuarantineReason.UNKNOWN_TENANT, detail))
    if work.event.refusal is not None:
        return work
    refusal = refuse_by_books(intent.legs, chart, books.units.get(intent.tenant, {}))
    return work if refusal is None else work._replace(event=work.event._replace(refusal=refusal))


def make_quarantined_event(message: Message, reason: QuarantineReason, detail: str) -> Event:
    """Return the event of bytes that are not an intent; the hash of the bytes is its fingerprint."""
    fingerprint = sha256(message.value or b"").digest()
    return Event(message.partition, message.offset, fingerprint, None, quarantine=(reason, detail))


def quarantine_poisoned(work: Work) -> Work:
    """Quarantine the event, because it cannot be posted even alone."""
    detail = "The event breaks every batch that holds it."
    return work._replace(event=make_quarantined_event(work.message, QuarantineReason.POISON, detail))
