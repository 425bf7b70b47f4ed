"""The span of an agent's batch: it links to the sampled messages of the batch, and exists only if there are any."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from domain.outcomes import Outcome
from runtime import tracing
from runtime.tracing import Attribute, Kind, SpanName
from streams.batches import AgentOptions, Message, PartitionBatch

_ODD_DIGITS: Final = frozenset((b"1", b"3", b"5", b"7", b"9", b"b", b"d", b"f"))


@contextmanager
def follow_batch(options: AgentOptions, batch: list[PartitionBatch]) -> Iterator[None]:
    """Keep a span open while an agent works on a batch, if tracing is on and messages of the batch are sampled."""
    tracer = tracing.get_tracer()
    links = [] if tracer is None else list_sampled(batch)
    if tracer is None or not links:
        yield
        return
    destination = ",".join(dict.fromkeys(part.topic for part in batch))
    attributes: dict[Attribute, tracing.Value] = {
        Attribute.MESSAGING_SYSTEM: "kafka",
        Attribute.MESSAGING_OPERATION: "process",
        Attribute.MESSAGING_OPERATION_TYPE: "process",
        Attribute.DESTINATION: destination,
        Attribute.CONSUMER_GROUP: options.group,
        Attribute.BATCH_MESSAGES: sum(len(part.messages) for part in batch),
        Attribute.OFFSETS: _format_offsets(options, batch),
    }
    with tracing.enter_span(tracer.span(f"{SpanName.PROCESS} {destination}", Kind.CONSUMER, attributes, links=links)):
        yield


def _format_offsets(options: AgentOptions, batch: list[PartitionBatch]) -> list[str]:
    bounds = [(part, offset) for part in batch for offset in (part.expected_offset, part.end_offset - 1)]
    if len(options.topics) > 1:
        return tracing.format_ranges((f"{part.topic}/{part.partition}", offset) for part, offset in bounds)
    return tracing.format_ranges((part.partition, offset) for part, offset in bounds)


@contextmanager
def open_transaction_span(intents: int) -> Iterator[None]:
    """Keep a span open during a posting transaction, if the batch has a span."""
    tracer, around = tracing.get_tracer(), tracing.get_current_span()
    if tracer is None or around is None:
        yield
        return
    attributes: dict[Attribute, tracing.Value] = {
        Attribute.DATABASE_SYSTEM: "postgresql",
        Attribute.DATABASE_OPERATION: "transaction",
        Attribute.DATABASE_SIZE: intents,
    }
    with tracing.enter_span(tracer.span(SpanName.TRANSACTION, Kind.CLIENT, attributes, parent=around.traceparent)):
        yield


def make_outcome_attributes(outcomes: Iterable[Outcome]) -> dict[Attribute, tracing.Value]:
    """Return how many intents had each outcome; an outcome without intents is left out."""
    return {Attribute(f"ledgerline.outcomes.{outcome.value}"): count for outcome, count in Counter(outcomes).items()}


def list_sampled(batch: Iterable[PartitionBatch]) -> list[str]:
    """Return the traceparents of sampled messages, each once, at most LINKS_MAX.

    If tracing is on, this function sees every message, and most are not sampled: so it tests the digit of the sampled
    flag first.
    """
    found: dict[str, None] = {}
    for part in batch:
        for item in part.messages:
            # The item is a Message, or what ReadAhead made of it, which keeps the Message.
            headers = item.headers if type(item) is Message else item.message.headers
            if not headers:
                continue
            name, value = headers[0]  # our own producers put the traceparent first
            if name != tracing.TRACEPARENT:
                value = next((other for given, other in headers if given == tracing.TRACEPARENT), None)
            if value is None or value[-1:] not in _ODD_DIGITS:
                continue
            text = value.decode("ascii", errors="replace")
            if text not in found and tracing.is_sampled(text):
                found[text] = None
                if len(found) == tracing.LINKS_MAX:
                    return list(found)
    return list(found)
