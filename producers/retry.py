"""Send quarantined bytes to payments.intents again: the same value, key and partition, with two more headers.

A retry posts nothing twice: if an intent can now be decoded, its id follows from its tenant and idempotency key, and an
id is settled once. Bytes that still cannot be decoded are quarantined again, under a new (lane, seq).
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from db.operations import QuarantinedBytes, Unconfirmed
from domain.errors import LedgerlineError
from runtime.kafka import Kafka

RETRY_OF_HEADER: Final = "ledgerline_retry_of"
"""Names the quarantined row as `lane/seq`. Bytes that were retried several times have several, oldest first."""
RETRY_HEADER: Final = "ledgerline_retry"
"""The number of the retry. The retry's record says who did it and when."""

ANSWER_SECONDS_MAX: Final = 5.0
DELIVERY_SECONDS_MAX: Final = 30.0
SILENCE_SECONDS_MAX: Final = 30.0

Place = tuple[str, int]
"""Topic and partition."""


class RetryError(LedgerlineError):
    """Quarantined bytes could not be sent again."""


class Begun(NamedTuple):
    """A quarantined row whose retry is on record but not yet sent."""

    retry_id: int
    row: QuarantinedBytes


class Sent(NamedTuple):
    """The new position of a quarantined row's bytes. All in-sync replicas have confirmed it."""

    retry_id: int
    lane: int
    seq: int
    topic: str
    partition: int
    offset: int


class Attempt(NamedTuple):
    """The rows that were sent. `failure` says why the others were not, and is None if all were sent."""

    sent: list[Sent]
    failure: str | None


class Trail(Protocol):
    """The record of retries."""

    def begin(self, row: QuarantinedBytes, from_offset: int) -> int:
        """Record that a row is about to be sent, to this offset or a later one. Return the retry's number."""

    def confirm(self, retry_id: int, offset: int) -> None:
        """Record the offset that the retry has on its topic."""


class Retrier:
    """Sends quarantined rows again by one idempotent, non-transactional producer, so that offsets stay gapless."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer = Producer(
            {
                **kafka.make_client_options(),
                "client.id": "ledgerline-retry",
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "delivery.timeout.ms": int(DELIVERY_SECONDS_MAX * 1000),
                # A retried message is longer by its two headers than the message that the broker once accepted. Let the
                # broker's own limit decide.
                "message.max.bytes": 20_000_000,
                "log_level": 2,
            }
        )

    def end_offsets(self, places: set[Place]) -> dict[Place, int]:
        """Return the present end offsets of these partitions. Raise KafkaException if the broker is away."""
        consumer = _make_consumer(self._kafka)
        try:
            ends = {
                place: consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_SECONDS_MAX)[1]
                for place in places
            }
        finally:
            consumer.close()
        return ends

    def send(self, begun: Sequence[Begun]) -> Attempt:
        """Send each row to the partition that has its lane's number, and wait until Kafka confirms."""
        sent: list[Sent] = []
        failures: list[str] = []
        for item in begun:
            row = item.row
            own_headers = [(RETRY_OF_HEADER, f"{row.lane}/{row.seq}".encode()), (RETRY_HEADER, b"%d" % item.retry_id)]
            try:
                self._producer.produce(
                    row.source_topic,
                    row.value,
                    row.key,
                    partition=row.lane,
                    headers=[*row.headers, *own_headers],
                    on_delivery=partial(_record_delivery, item, sent, failures),
                )
            except (KafkaException, BufferError) as error:
                failures.append(f"lane {row.lane} seq {row.seq}: {error}")
                break
            self._producer.poll(0)
        unconfirmed = self._producer.flush(DELIVERY_SECONDS_MAX + 1)
        if unconfirmed:
            failures.append(f"{unconfirmed} were not confirmed in time")
        return Attempt(sent, failures[0] if failures else None)

    def find(self, unconfirmed: Sequence[Unconfirmed]) -> dict[int, int]:
        """Return the offsets of the retries that did reach their topics. Raise RetryError if a topic cannot be read."""
        starts: dict[Place, int] = {}
        for item in unconfirmed:
            place = (item.topic, item.partition)
            starts[place] = min(item.from_offset, starts.get(place, item.from_offset))
        wanted = {b"%d" % item.retry_id: item.retry_id for item in unconfirmed}
        found: dict[int, int] = {}
        for place, start in starts.items():
            for message in _read(self._kafka, place, start):
                for name, value in message.headers() or []:
                    if name == RETRY_HEADER and value in wanted:
                        found[wanted[value]] = message.offset()
        return found


def _make_consumer(kafka: Kafka) -> Consumer:
    return Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "ledgerline-retry",  # the client requires it, although nothing is ever committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "log_level": 2,
        }
    )


def _read(kafka: Kafka, place: Place, start: int) -> list[Message]:
    """Return the messages with a retry header in a partition, from an offset up to the partition's present end."""
    consumer = _make_consumer(kafka)
    found: list[Message] = []
    deadline = time.monotonic() + SILENCE_SECONDS_MAX
    try:
        consumer.assign([TopicPartition(*place, start)])
        while time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    deadline = time.monotonic() + SILENCE_SECONDS_MAX
                    if any(name == RETRY_HEADER for name, _ in message.headers() or []):
                        found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
    finally:
        consumer.close()
    raise RetryError(
        f"Kafka does not return {place[0]} partition {place[1]}, which may hold retries that were cut off:"
        " see `ledgerline status`, then retry."
    )


def _record_delivery(
    item: Begun, sent: list[Sent], failures: list[str], error: KafkaError | None, message: Message
) -> None:
    row = item.row
    if error is None:
        sent.append(Sent(item.retry_id, row.lane, row.seq, row.source_topic, row.lane, int(message.offset())))
    else:
        failures.append(f"lane {row.lane} seq {row.seq}: {error.str()}")


def retry(retrier: Retrier, rows: Sequence[QuarantinedBytes], trail: Trail) -> list[Sent]:
    """Send the rows again. Record each retry before it is sent, and again when Kafka has confirmed it.

    A process that is killed in between leaves a retry that is recorded as begun only; `find` tells whether it was sent.
    Raise RetryError if Kafka did not take all rows.
    """
    try:
        ends = retrier.end_offsets({(row.source_topic, row.lane) for row in rows})
    except KafkaException as error:  # raised before anything is recorded: nothing was sent
        raise _make_refused(0, len(rows), error.args[0].str()) from error
    begun = [Begun(trail.begin(row, ends[row.source_topic, row.lane]), row) for row in rows]
    sent, failure = retrier.send(begun)
    for item in sorted(sent):
        trail.confirm(item.retry_id, item.offset)
    if failure is not None:
        raise _make_refused(len(sent), len(rows), failure)
    return sorted(sent)


def _make_refused(sent: int, rows: int, cause: str) -> RetryError:
    return RetryError(f"Kafka took {sent} of {rows} ({cause}): see `ledgerline status`, then retry the rest.")
