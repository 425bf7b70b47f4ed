"""Reading payments.intents in step with ledger.journal: exactly the offsets that the records name, as one stream."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from runtime.kafka import Kafka
from streams.proof.records.pages import SourceAway

MESSAGES_PER_CALL_MAX: Final = 5000
QUIET_SECONDS: Final = 2.0
WATERMARKS_SECONDS_MAX: Final = 10.0


class Window(NamedTuple):
    """The messages at the wanted offsets of one lane."""

    low: int
    """The lowest offset that the lane still has. Retention has deleted the offsets below it."""
    values: dict[int, bytes | None]
    times_ms: dict[int, int]
    """Timestamps by offset, in milliseconds since 1970; 0 or less if a message has none."""


class IntentSource:
    """A consumer that keeps its position in each assigned lane, so lanes are read as streams. Not thread-safe."""

    def __init__(self, kafka: Kafka, topic: str, *, buffered_max: int = 20_000, timeout_seconds: float = 30.0) -> None:
        self._topic = topic
        self._buffered_max = buffered_max
        self._timeout_seconds = timeout_seconds
        self._options: dict[str, Any] = {
            **kafka.make_client_options(),
            "group.id": "ledgerline-reconciliation-source",  # librdkafka requires it; no offset is ever committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            # The posting workers read the same way: a message of an aborted transaction is no intent.
            "isolation.level": "read_committed",
            # The end-of-partition event tells how far a lane was read if its last offsets hold no message.
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
            # For each partition. The limit in kilobytes does not count the memory around a message, which is 7 kB
            # if each message came alone. That adds up while Postgres is away and the consumer is not polled.
            "queued.min.messages": 1000,
            # Few and large fetch responses. When a topic goes quiet, its last intents come up to this much later.
            "fetch.wait.max.ms": 50,
            "fetch.min.bytes": 65_536,
        }
        self._consumer = Consumer(self._options)
        self._buffers: dict[int, deque[tuple[int, bytes | None, int]]] = {}
        self._positions: dict[int, int] = {}
        self._lows: dict[int, int] = {}
        self._paused: set[int] = set()

    def close(self) -> None:
        """Close the connection to Kafka."""
        self._consumer.close()

    def _renew(self) -> None:
        """Replace the consumer and drop everything that was read.

        A consumer that got no answer may not recover: after Kafka had stalled for 87 seconds, one consumer failed for
        three minutes while Kafka answered every other client.
        """
        self._consumer.close()
        self._consumer = Consumer(self._options)
        for kept in (self._buffers, self._positions, self._lows, self._paused):
            kept.clear()

    def bounds(self, lane: int) -> tuple[int, int]:
        """Return the lowest and the next offset of the lane; raise SourceAway if Kafka does not tell them."""
        try:
            try:
                low, high = self._read_watermarks(lane)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise
                # The lane is new: librdkafka would ask for the topic's metadata by itself only after minutes.
                self._consumer.list_topics(self._topic, WATERMARKS_SECONDS_MAX)
                low, high = self._read_watermarks(lane)
        except KafkaException as error:
            self._renew()
            raise SourceAway(f"Kafka does not report the end of lane {lane} of {self._topic}: {error}.") from error
        return low, high

    def _read_watermarks(self, lane: int) -> tuple[int, int]:
        at = TopicPartition(self._topic, lane)
        low, high = self._consumer.get_watermark_offsets(at, timeout=WATERMARKS_SECONDS_MAX)
        return int(low), int(high)

    def read(self, wanted: Mapping[int, tuple[int, int]]) -> dict[int, Window]:
        """Return the messages of each lane from the first wanted offset up to, and without, the end offset.

        Offsets without a committed message are left out. Raise SourceAway after `timeout_seconds` without progress.
        """
        self._seek_wanted(wanted)
        deadline = time.monotonic() + self._timeout_seconds
        quiet_since = time.monotonic()
        ends = {lane: end for lane, (_, end) in wanted.items()}
        while owing := sum(max(end - self._positions[lane], 0) for lane, end in ends.items()):
            progressed = self._fetch(min(owing, MESSAGES_PER_CALL_MAX), ends)
            now = time.monotonic()
            if progressed:
                quiet_since = now
                deadline = now + self._timeout_seconds
            elif now > deadline:
                lanes = [lane for lane, end in ends.items() if self._positions[lane] < end]
                self._renew()
                raise SourceAway(f"Kafka does not hand over {owing} messages of {self._topic}, lanes {lanes}.")
            elif now - quiet_since > QUIET_SECONDS:
                quiet_since = now
                self._skip_absent(ends)
        return {lane: Window(self._lows[lane], *self._cut(lane, end)) for lane, (_, end) in wanted.items()}

    def _seek_wanted(self, wanted: Mapping[int, tuple[int, int]]) -> None:
        """Drop buffered messages below the wanted offsets, and seek the lanes whose stream is at another offset."""
        moved = False
        for lane, (first, _) in wanted.items():
            buffer = self._buffers.setdefault(lane, deque())
            while buffer and buffer[0][0] < first:
                buffer.popleft()
            start = buffer[0][0] if buffer else self._positions.get(lane)
            if start is not None and start <= first and first - start <= self._buffered_max:
                continue
            if start is not None and self._lows[lane] >= start > first:
                continue  # retention has deleted the offsets before `start`
            low, _ = self.bounds(lane)
            buffer.clear()
            self._lows[lane] = low
            self._positions[lane] = max(first, low)
            moved = True
        if moved:
            self._assign()
        resumed = [lane for lane in wanted if lane in self._paused]
        if resumed:
            self._consumer.resume([TopicPartition(self._topic, lane) for lane in resumed])
            self._paused.difference_update(resumed)

    def _assign(self) -> None:
        self._paused.clear()
        self._consumer.assign([TopicPartition(self._topic, lane, at) for lane, at in self._positions.items()])

    def _fetch(self, count: int, ends: Mapping[int, int]) -> bool:
        """Move up to `count` messages into the buffers; return whether any lane advanced."""
        progressed = False
        for message in self._consumer.consume(count, 0.5):
            error = message.error()
            lane, offset = message.partition(), message.offset()
            if error is not None:
                if error.fatal():
                    self._renew()
                    raise SourceAway(f"Kafka does not hand over {self._topic}: {error}.")
                if error.code() == KafkaError._PARTITION_EOF and offset > self._positions[lane]:
                    self._positions[lane] = offset
                    progressed = True
                continue  # librdkafka retries by itself, and the deadline limits the wait
            self._buffers[lane].append((offset, message.value(), message.timestamp()[1]))
            self._positions[lane] = offset + 1
            progressed = True
        for lane, buffer in self._buffers.items():
            is_full = len(buffer) > self._buffered_max and self._positions[lane] >= ends.get(lane, 0)
            if is_full and lane not in self._paused:
                self._consumer.pause([TopicPartition(self._topic, lane)])
                self._paused.add(lane)
        return progressed

    def _skip_absent(self, ends: dict[int, int]) -> None:
        """Skip the offsets that retention has deleted or that lie past the end of the topic, instead of waiting."""
        for lane, end in ends.items():
            if self._positions[lane] < end:
                low, high = self.bounds(lane)
                self._lows[lane] = low
                ends[lane] = min(end, high)
                if low > self._positions[lane]:
                    self._positions[lane] = low
                    self._assign()

    def _cut(self, lane: int, end: int) -> tuple[dict[int, bytes | None], dict[int, int]]:
        buffer = self._buffers[lane]
        values: dict[int, bytes | None] = {}
        times_ms: dict[int, int] = {}
        while buffer and buffer[0][0] < end:
            offset, value, time_ms = buffer.popleft()
            values[offset] = value
            times_ms[offset] = time_ms
        return values, times_ms
