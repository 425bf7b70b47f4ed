"""How far ledger.journal goes: what a lane's ledger must have before anything is posted to it.

A ledger that was restored from an old backup, or a standby that was promoted before it had everything, lacks rows
that the topic has. Posted again they would have other times of booking, and so other hashes than those published.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from db.posting import Lane
from domain.errors import LedgerlineError, Outage
from domain.journal import GENESIS_HASH
from domain.kafka import Kafka
from producers.positions import record_start
from streams.posting.source import KAFKA_SECONDS_MAX, KafkaAway

TAIL_OFFSETS: Final = 8


class JournalAhead(LedgerlineError):
    """The topic has records of a lane that the ledger lacks, or has others in their place."""


class JournalUnsettled(Outage):
    """Records that the ledger lacks stand in a Kafka transaction that may still be committed."""


class Published(NamedTuple):
    """How far a lane goes on ledger.journal."""

    next_seq: int = 0
    """One past the last committed record."""
    head: bytes = GENESIS_HASH
    """Hash of that record."""
    open_next_seq: int = 0
    """One past the last record in a transaction that is neither committed nor aborted; 0 where there is none."""


def check_published(lane: Lane, published: Published, row_hash: Callable[[int, int], bytes | None]) -> None:
    """Refuse to post to a lane that is not all that was published of it: JournalAhead says what to do.

    `row_hash` gives the hash of the ledger's row at a lane and seq; it is asked where the relay lags.
    """
    if published.next_seq > lane.next_seq:
        raise JournalAhead(
            f"ledger.journal has lane {lane.lane} up to seq {published.next_seq}, but this ledger ends at"
            f" {lane.next_seq}, as an old copy does: run `ledgerline replay --into` it before posting goes on."
        )
    held: bytes | None = GENESIS_HASH
    if published.next_seq:
        is_even = published.next_seq == lane.next_seq
        held = lane.head if is_even else row_hash(lane.lane, published.next_seq - 1)
    if held != published.head:
        raise JournalAhead(
            f"ledger.journal has lane {lane.lane} with another hash at seq {published.next_seq - 1} than this ledger,"
            " so one of them is not its record: run `ledgerline replay --into` an empty database, and post to that one."
        )
    if published.open_next_seq > lane.next_seq:
        raise JournalUnsettled(
            f"ledger.journal has records of lane {lane.lane} that this ledger lacks, in a transaction that is still"
            " open: stop the relay that wrote them."
        )


def last_published(kafka: Kafka, topic: str, lanes: Iterable[int]) -> dict[int, Published]:
    """How far each of these lanes goes, read off the ends of its partition; KafkaAway where that is not told."""
    wanted = list(lanes)
    every, committed = _consumer(kafka, "read_uncommitted"), _consumer(kafka, "read_committed")
    try:
        ends = {lane: high for lane, (_, high) in _bounds(every, topic, wanted).items()}
        # Of what is committed, a partition ends where the first open transaction begins.
        settled = _bounds(committed, topic, wanted)
        found = _last_committed(committed, topic, settled)
        open_from = {lane: end for lane, (_, end) in settled.items() if end < ends[lane]}
        still_open = _read_to_end(every, topic, open_from)
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {kafka} does not hand over the end of {topic}: {error}.") from error
    finally:
        every.close()
        committed.close()
    seqs = {lane: record_start(message.value())["seq"] + 1 for lane, message in still_open.items()}
    return {lane: found[lane]._replace(open_next_seq=seqs.get(lane, 0)) for lane in wanted}


def _bounds(consumer: Consumer, topic: str, lanes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """The first and the next offset of each partition, as far as the consumer's isolation sees."""
    return {
        lane: consumer.get_watermark_offsets(TopicPartition(topic, lane), timeout=KAFKA_SECONDS_MAX) for lane in lanes
    }


def _last_committed(consumer: Consumer, topic: str, bounds: Mapping[int, tuple[int, int]]) -> dict[int, Published]:
    """The last committed record of each lane.

    Only the tail is read: a few offsets, and further back where those are markers or aborted records.
    """
    found = {lane: Published() for lane, (low, high) in bounds.items() if low == high}
    behind = TAIL_OFFSETS
    while missing := bounds.keys() - found.keys():
        starts = {lane: max(bounds[lane][0], bounds[lane][1] - behind) for lane in missing}
        last = _read_to_end(consumer, topic, starts)
        for lane, start in starts.items():
            if lane in last:
                record = record_start(last[lane].value())
                found[lane] = Published(record["seq"] + 1, record["hash"])
            elif start == bounds[lane][0]:
                found[lane] = Published()
        behind *= 16
    return found


def _read_to_end(consumer: Consumer, topic: str, starts: Mapping[int, int]) -> dict[int, Message]:
    """The last record of each partition from a start on, where there is one."""
    consumer.assign([TopicPartition(topic, lane, start) for lane, start in starts.items()])
    last: dict[int, Message] = {}
    waiting = set(starts)
    deadline = time.monotonic() + KAFKA_SECONDS_MAX
    while waiting:
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no end in {KAFKA_SECONDS_MAX:.0f} seconds"))
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            last[message.partition()] = message
        elif error.code() == KafkaError._PARTITION_EOF:
            waiting.discard(message.partition())
        elif not error.retriable():
            raise KafkaException(error)
    return last


def _consumer(kafka: Kafka, isolation_level: str) -> Consumer:
    return Consumer(
        {
            **kafka.client_options(),
            "group.id": "ledgerline-published",  # asked for, though nothing is ever committed
            "enable.auto.commit": False,
            "isolation.level": isolation_level,
            "enable.partition.eof": True,
            # The broker holds the answer that says "nothing more" for so long, and each take-over waits for it.
            "fetch.wait.max.ms": 10,
            "log_level": 0,  # what goes wrong is raised
        }
    )
