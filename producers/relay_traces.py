"""Spans of the relay's transactions. Each span links to the posting batches whose records the transaction holds.

The journal holds no trace ids, because its records are hashed and kept for ever. A posting worker that traces a batch
announces it by NOTIFY in the batch's own transaction, and the relay listens (docs/decisions/0014-traces.md).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from db.relay import RelayStore, TracedBatch
from runtime import tracing
from runtime.tracing import Attribute, Kind, Span, SpanName

_KEPT_MAX: Final = 1000
"""The most batches that are announced and not yet relayed. A relay that is further behind forgets the oldest."""

Relayed = Mapping[int, tuple[int, int]]
"""The range of a transaction in each lane: the first seq, and the seq after the last."""


class TracedBatches:
    """Keeps the batches that posting announced until they are relayed."""

    def __init__(self, instance: int, instances: int) -> None:
        self._instance = instance
        self._instances = instances
        self._waiting: deque[TracedBatch] = deque(maxlen=_KEPT_MAX)

    def add(self, batches: Iterable[TracedBatch]) -> None:
        """Keep the announced batches, with only those of their lanes that this instance has."""
        for batch in batches:
            ours = {lane: seq for lane, seq in batch.next_seqs.items() if lane % self._instances == self._instance}
            if ours:
                self._waiting.append(TracedBatch(batch.traceparent, ours))

    def take(self, relayed: Relayed) -> list[str]:
        """Return the traceparents of at most LINKS_MAX batches that end in this transaction in at least one lane."""
        found = []
        for batch in list(self._waiting):
            passed = {lane for lane, seq in batch.next_seqs.items() if lane in relayed and seq <= relayed[lane][1]}
            if any(relayed[lane][0] < batch.next_seqs[lane] for lane in passed):
                found.append(batch.traceparent)
            for lane in passed:
                del batch.next_seqs[lane]
            if not batch.next_seqs:
                self._waiting.remove(batch)
        return found[: tracing.LINKS_MAX]


class RelayTraces:
    """Makes the spans of one relay's transactions."""

    def __init__(self, store: RelayStore, topic: str, instance: int, instances: int) -> None:
        self._store = store
        self._topic = topic
        self._batches = TracedBatches(instance, instances)

    @contextmanager
    def follow(self, relayed: Relayed) -> Iterator[Span | None]:
        """Yield the span of a transaction, or None if tracing is off or none of its batches was traced."""
        tracer = tracing.get_tracer()
        if tracer is None:
            yield None
            return
        self._batches.add(self._store.traced())
        links = self._batches.take(relayed)
        if not links:
            yield None
            return
        attributes: dict[Attribute, tracing.Value] = {
            Attribute.MESSAGING_SYSTEM: "kafka",
            Attribute.MESSAGING_OPERATION: "send",
            Attribute.MESSAGING_OPERATION_TYPE: "send",
            Attribute.DESTINATION: self._topic,
            Attribute.BATCH_MESSAGES: sum(next_seq - first for first, next_seq in relayed.values()),
            Attribute.SEQUENCES: tracing.format_ranges(
                (lane, seq) for lane, (first, next_seq) in relayed.items() for seq in (first, next_seq - 1)
            ),
        }
        name = f"{SpanName.SEND} {self._topic}"
        with tracing.enter_span(tracer.span(name, Kind.PRODUCER, attributes, links=links)) as span:
            yield span
