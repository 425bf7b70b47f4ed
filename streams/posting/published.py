"""How far ledger.journal goes: what a lane's ledger must have before anything is posted to it.

A ledger that was restored from an old backup, or a standby that was promoted before it had everything, lacks rows
that the topic has. Posted again they would have other times of booking, and so other hashes than those published.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from confluent_kafka import KafkaException

from db.posting import Lane
from domain.errors import LedgerlineError, Unready
from domain.journal import GENESIS_HASH
from runtime.journal_ends import bounds_of, end_consumer, last_records, read_to_end
from runtime.kafka import Kafka
from streams.posting.source import KAFKA_SECONDS_MAX, KafkaAway


class JournalAhead(LedgerlineError):
    """The topic has records of a lane that the ledger lacks, or has others in their place."""


class JournalUnsettled(Unready):
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
    every = end_consumer(kafka, "ledgerline-published", "read_uncommitted")
    committed = end_consumer(kafka, "ledgerline-published")
    try:
        ends = bounds_of(every, topic, wanted, KAFKA_SECONDS_MAX)
        # Of what is committed, a partition ends where the first open transaction begins.
        settled = bounds_of(committed, topic, wanted, KAFKA_SECONDS_MAX)
        last = last_records(committed, topic, settled, KAFKA_SECONDS_MAX)
        open_from = {lane: bounds.high for lane, bounds in settled.items() if bounds.high < ends[lane].high}
        still_open = read_to_end(every, topic, open_from, KAFKA_SECONDS_MAX)
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {kafka} does not hand over the end of {topic}: {error}.") from error
    finally:
        every.close()
        committed.close()
    found = {lane: Published(record.seq + 1, record.hash) for lane, record in last.items()}
    return {
        lane: found.get(lane, Published())._replace(open_next_seq=still_open[lane].seq + 1 if lane in still_open else 0)
        for lane in wanted
    }
