"""The spans of the relay's transactions: linked to the batches of posting whose records they hold.

The journal knows nothing of traces, as its records are hashed and kept for ever. A posting worker that traces a batch
tells of it by NOTIFY, in the batch's own transaction, and the relay listens (docs/decisions/0014-traces.md).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from db.relay import RelayStore, TracedBatch
from runtime import tracing
from runtime.tracing import Attribute, Kind, Span, SpanName

_KEPT_MAX: Final = 1000
"""Batches that are told of and not relayed; a relay that is further behind forgets the oldest."""

Relayed = Mapping[int, tuple[int, int]]
"""What a transaction has of each lane: the first seq, and the next after the last."""


class TracedBatches:
    """Batches that posting told of, until they are relayed."""

    def __init__(self, shard: int, shards: int) -> None:
        self._shard = shard
        self._shards = shards
        self._waiting: deque[TracedBatch] = deque(maxlen=_KEPT_MAX)

    def add(self, batches: Iterable[TracedBatch]) -> None:
        """Take in what was told, as far as it is of this shard's lanes."""
        for batch in batches:
            ours = {lane: seq for lane, seq in batch.next_seqs.items() if lane % self._shards == self._shard}
            if ours:
                self._waiting.append(TracedBatch(batch.traceparent, ours))

    def take(self, relayed: Relayed) -> list[str]:
        """The traceparents of the batches that end in this transaction, in a lane at least; LINKS_MAX of them."""
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

    def __init__(self, store: RelayStore, topic: str, shard: int, shards: int) -> None:
        self._store = store
        self._topic = topic
        self._batches = TracedBatches(shard, shards)

    @contextmanager
    def following(self, relayed: Relayed) -> Iterator[Span | None]:
        """While a transaction is under way: its span, where tracing is on and a batch of it was traced."""
        tracer = tracing.tracer()
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
            Attribute.SEQUENCES: tracing.ranges(
                (lane, seq) for lane, (first, next_seq) in relayed.items() for seq in (first, next_seq - 1)
            ),
        }
        name = f"{SpanName.SEND} {self._topic}"
        with tracing.inside(tracer.span(name, Kind.PRODUCER, attributes, links=links)) as span:
            yield span
