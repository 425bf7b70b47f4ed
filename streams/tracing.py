"""The span of an agent's batch: linked to what was sampled of it, and absent where nothing was."""

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
def following(options: AgentOptions, batch: list[PartitionBatch]) -> Iterator[None]:
    """While an agent works on a batch: the batch's span, where tracing is on and its messages come of sampled ones."""
    tracer = tracing.tracer()
    links = [] if tracer is None else sampled_of(batch)
    if tracer is None or not links:
        yield
        return
    attributes: dict[Attribute, tracing.Value] = {
        Attribute.MESSAGING_SYSTEM: "kafka",
        Attribute.MESSAGING_OPERATION: "process",
        Attribute.MESSAGING_OPERATION_TYPE: "process",
        Attribute.DESTINATION: options.topic,
        Attribute.CONSUMER_GROUP: options.group,
        Attribute.BATCH_MESSAGES: sum(len(part.messages) for part in batch),
        Attribute.OFFSETS: tracing.ranges(
            (part.partition, offset) for part in batch for offset in (part.expected_offset, part.end_offset - 1)
        ),
    }
    name = f"{SpanName.PROCESS} {options.topic}"
    with tracing.inside(tracer.span(name, Kind.CONSUMER, attributes, links=links)):
        yield


@contextmanager
def transaction_span(intents: int) -> Iterator[None]:
    """While a transaction of posting is under way: a span of its own, where the batch has one."""
    tracer, around = tracing.tracer(), tracing.current_span()
    if tracer is None or around is None:
        yield
        return
    attributes: dict[Attribute, tracing.Value] = {
        Attribute.DATABASE_SYSTEM: "postgresql",
        Attribute.DATABASE_OPERATION: "transaction",
        Attribute.DATABASE_SIZE: intents,
    }
    with tracing.inside(tracer.span(SpanName.TRANSACTION, Kind.CLIENT, attributes, parent=around.traceparent)):
        yield


def outcome_attributes(outcomes: Iterable[Outcome]) -> dict[Attribute, tracing.Value]:
    """How many intents had each outcome, of those that there were."""
    return {Attribute(f"ledgerline.outcomes.{outcome.value}"): count for outcome, count in Counter(outcomes).items()}


def sampled_of(batch: Iterable[PartitionBatch]) -> list[str]:
    """The traceparents of sampled messages, each once, at most LINKS_MAX.

    This looks at every message where tracing is on, and most are not sampled: so it looks at the flag's digit first.
    """
    found: dict[str, None] = {}
    for part in batch:
        for item in part.messages:
            # A message as it came, or what an agent made of it ahead, which keeps it.
            headers = item.headers if type(item) is Message else item.message.headers
            if not headers:
                continue
            name, value = headers[0]  # where our own producers put it
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
