"""How far the topics go, for monitoring: one long-lived consumer reads it, commits nothing and joins no group."""

from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from domain.errors import Outage
from runtime.journal_ends import Bounds, make_end_consumer, read_bounds, read_last_records
from runtime.kafka import Kafka

REQUEST_SECONDS_MAX: Final = 3.0


class PositionsUnknown(Outage):
    """Kafka does not answer how far the topics go."""


class Positions(NamedTuple):
    """By lane: the first and the next offset of payments.intents, and the first seq that ledger.journal lacks."""

    first: dict[int, int]
    received: dict[int, int]
    relayed: dict[int, int]


def compute_lag(end: int | None, done: int | None) -> int | None:
    """Return how far one stage is behind another, at least 0; None if either position is unknown.

    The two positions are read one after the other, so the later stage of a moving lane may seem to be ahead.
    """
    return None if end is None or done is None else max(end - done, 0)


class PositionReader:
    """Reads positions from the brokers, for one thread at a time. It reads only changed partitions' last records."""

    def __init__(self, kafka: Kafka, intents: str, journal: str) -> None:
        self._intents = intents
        self._journal = journal
        self._ends: dict[int, int] = {}
        self._relayed: dict[int, int] = {}
        self._consumer = make_end_consumer(kafka, "ledgerline-positions")

    def read(self) -> Positions:
        """Return how far both topics go now; block. Raise PositionsUnknown if Kafka is away or lacks a topic."""
        try:
            intents = self._read_bounds(self._intents)
            journal = self._read_bounds(self._journal)
            grown = {lane: bounds for lane, bounds in journal.items() if self._ends.get(lane) != bounds.high}
            last = read_last_records(self._consumer, self._journal, grown, REQUEST_SECONDS_MAX)
        except KafkaException as error:
            cause = error.args[0]
            told = cause.str() if isinstance(cause, KafkaError) else "no answer in time"
            raise PositionsUnknown(f"Kafka does not report the ends of the topics: {told}.") from error
        self._relayed |= {lane: last[lane].seq + 1 if lane in last else 0 for lane in grown}
        self._ends |= {lane: bounds.high for lane, bounds in grown.items()}
        return Positions(
            {lane: bounds.low for lane, bounds in intents.items()},
            {lane: bounds.high for lane, bounds in intents.items()},
            dict(self._relayed),
        )

    def close(self) -> None:
        """Close the connections; nothing may be read afterwards."""
        self._consumer.close()

    def _read_bounds(self, topic: str) -> dict[int, Bounds]:
        found = self._consumer.list_topics(topic, REQUEST_SECONDS_MAX).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return read_bounds(self._consumer, topic, sorted(found.partitions), REQUEST_SECONDS_MAX)
