"""The end of each lane on ledger.journal: the ledger must have all rows up to it before posting goes on.

The ledger lacks published rows if it was restored from an old backup, or if it is a standby that was promoted before it
had all rows. If their intents were posted again, the rows would get other booked times, and so other hashes than the
published ones.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from confluent_kafka import KafkaException

from db.posting import Lane
from domain.errors import LedgerlineError, Unready
from domain.journal import GENESIS_HASH
from runtime.journal_ends import make_end_consumer, read_bounds, read_last_records, read_to_end
from runtime.kafka import Kafka
from streams.posting.source import KAFKA_SECONDS_MAX, KafkaAway


class JournalAhead(LedgerlineError):
    """The topic has records of a lane that the ledger lacks, or that differ from the rows of the ledger."""


class JournalUnsettled(Unready):
    """An open Kafka transaction, which may still be committed, has records that the ledger lacks."""


class Published(NamedTuple):
    """The end of a lane on ledger.journal."""

    next_seq: int = 0
    """One past the last committed record."""
    head: bytes = GENESIS_HASH
    """Hash of the last committed record."""
    open_next_seq: int = 0
    """One past the last record in a transaction that is neither committed nor aborted; 0 if there is none."""


def check_published(lane: Lane, published: Published, row_hash: Callable[[int, int], bytes | None]) -> None:
    """Raise JournalAhead if the ledger lacks published records of the lane or has others; its message says what to do.

    Raise JournalUnsettled if the ledger lacks only records of an open transaction. `row_hash` returns the hash of the
    ledger's row at a lane and seq. It is called if the relay lags behind the ledger.
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


def read_last_published(kafka: Kafka, topic: str, lanes: Iterable[int]) -> dict[int, Published]:
    """Return the end of each of these lanes on the topic; raise KafkaAway if Kafka does not tell it."""
    wanted = list(lanes)
    every = make_end_consumer(kafka, "ledgerline-published", "read_uncommitted")
    committed = make_end_consumer(kafka, "ledgerline-published")
    try:
        ends = read_bounds(every, topic, wanted, KAFKA_SECONDS_MAX)
        # For a read_committed consumer, a partition ends where its first open transaction begins.
        settled = read_bounds(committed, topic, wanted, KAFKA_SECONDS_MAX)
        last = read_last_records(committed, topic, settled, KAFKA_SECONDS_MAX)
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
