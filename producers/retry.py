"""Quarantined bytes back onto payments.intents, as they were: the same value, key and partition, one header more.

Nothing is doubled by it: an intent that can be decoded by now has the id that its tenant and idempotency key give it,
and an id is settled once. What still cannot be decoded is quarantined again, under a new (lane, seq).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from db.operations import QuarantinedBytes
from domain.errors import LedgerlineError

RETRY_HEADER: Final = "ledgerline_retry_of"
"""Names the quarantined row, as `lane/seq`; bytes that went round several times have several, the first one first."""

ANSWER_SECONDS_MAX: Final = 5.0
DELIVERY_SECONDS_MAX: Final = 30.0


class RetryError(LedgerlineError):
    """Quarantined bytes could not be sent again."""


class Sent(NamedTuple):
    """Where a quarantined row's bytes stand now, confirmed by all in-sync replicas."""

    lane: int
    seq: int
    topic: str
    partition: int
    offset: int


class Attempt(NamedTuple):
    """What of some rows was sent; `failure` says in a sentence why the rest was not."""

    sent: list[Sent]
    failure: str | None


class Retrier:
    """Sends quarantined rows again by one idempotent, non-transactional producer, so that offsets stay gapless."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "ledgerline-retry",
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "delivery.timeout.ms": int(DELIVERY_SECONDS_MAX * 1000),
                # What the broker once took comes back a header longer; the broker's own limit is what decides.
                "message.max.bytes": 20_000_000,
                "log_level": 2,
            }
        )

    def send(self, rows: Sequence[QuarantinedBytes]) -> Attempt:
        """Send rows to the partition of their topic that has their lane's number, and wait for Kafka to confirm."""
        sent: list[Sent] = []
        failures: list[str] = []
        try:
            self._producer.list_topics(timeout=ANSWER_SECONDS_MAX)
        except KafkaException as error:
            return Attempt(sent, error.args[0].str())  # rather than to wait out each row's delivery timeout
        for row in rows:
            try:
                self._producer.produce(
                    row.source_topic,
                    row.value,
                    row.key,
                    partition=row.lane,
                    headers=[*row.headers, (RETRY_HEADER, f"{row.lane}/{row.seq}".encode())],
                    on_delivery=partial(_delivered, row, sent, failures),
                )
            except (KafkaException, BufferError) as error:
                failures.append(f"lane {row.lane} seq {row.seq}: {error}")
                break
            self._producer.poll(0)
        unconfirmed = self._producer.flush(DELIVERY_SECONDS_MAX + 1)
        if unconfirmed:
            failures.append(f"{unconfirmed} were not confirmed in time")
        return Attempt(sent, failures[0] if failures else None)


def _delivered(
    row: QuarantinedBytes, sent: list[Sent], failures: list[str], error: KafkaError | None, message: Message
) -> None:
    if error is None:
        sent.append(Sent(row.lane, row.seq, row.source_topic, row.lane, int(message.offset())))
    else:
        failures.append(f"lane {row.lane} seq {row.seq}: {error.str()}")


def retry(retrier: Retrier, rows: Sequence[QuarantinedBytes], record: Callable[[Sent], None]) -> list[Sent]:
    """Send the rows again and have each that Kafka confirmed recorded; RetryError where it did not take all.

    The record comes after the confirmation, as it names the new offset: whoever is killed in between leaves a retry
    without a record, never a record without a retry.
    """
    sent, failure = retrier.send(rows)
    for item in sorted(sent):
        record(item)
    if failure is not None:
        raise RetryError(
            f"Kafka took {len(sent)} of {len(rows)} ({failure}): see `ledgerline status`, then retry the rest."
        )
    return sent
