"""Reconciliation's evidence of a run: the records of ledger.journal that it has checked since the run began.

Reconciliation stores its position on `ledger.journal` together with its counts. So the records between its position
before the run and its position after the run are exactly those that it compared with the intents, and they must add up
to its counts. The evidence uses neither the ledger's own tables nor the API; only the waiting reads ledger.lane.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cli.context import Ledger
from db.operations import count_breaks, list_lane_progress, open_glance
from db.reconciled import ReconciledLane, ReconciledSum, read_reconciled_lanes, read_reconciled_sums
from domain.errors import LedgerlineError
from domain.topics import Topics
from ops.embedded.process import wait_until
from runtime.kafka import Kafka
from runtime.kafka_positions import make_admin_client, read_topic_state
from runtime.schemas import parse_own_schema, read_body

MESSAGES_AT_ONCE: Final = 5000
READ_SECONDS_MAX: Final = 60.0
FATES: Final = ("posted", "duplicate", "idempotency_conflict", "rejected", "quarantined")

Progress = Callable[[int, int], None]
"""Called with the number of reconciled intents and the number of all intents."""


class NotReconciled(LedgerlineError):
    """Reconciliation did not reach the end of the sent intents, or does not agree with the topic."""


class Stand(NamedTuple):
    """The position of reconciliation in each lane, and the open differences so far."""

    lanes: dict[int, ReconciledLane]
    breaks: Counter[tuple[str, str]]
    """(found by, kind) -> number of open differences, of reconciliation and of audit."""


class Record(NamedTuple):
    """One journal record that reconciliation has checked."""

    key: str
    tenant: str
    intent_id: str
    outcome: str
    reason: str
    lane: int
    seq: int
    legs: tuple[tuple[str, str, int], ...]
    """(account, direction, amount in minor units), as posted; empty if nothing was posted."""
    seconds: float
    """Seconds from the API's handing the intent to Kafka until the record was relayed, which is after its commit."""

    @property
    def is_settled(self) -> bool:
        """Whether this record settles its intent; the record of a later delivery does not."""
        return self.outcome in ("posted", "rejected")


class Evidence(NamedTuple):
    """All that reconciliation knows of a run."""

    records: list[Record]
    """The records of intents whose key begins with the run's name, in the order of each lane."""
    others: int
    """How many records of other intents reconciliation has checked meanwhile."""
    sums: list[ReconciledSum]
    """Reconciliation's own sums of the accounts of the run."""
    breaks: dict[str, int]
    """Name, such as `reconciliation balance` -> how many more differences are open now than before the run."""


def stand_now(ledger: Ledger) -> Stand:
    """Return the current position of reconciliation."""
    with open_glance(ledger.postgres_dsn) as connection:
        return _stand(connection)


def _stand(connection: Any) -> Stand:
    breaks = Counter(
        {(found.found_by, found.kind): found.breaks for found in count_breaks(connection) if found.state == "open"}
    )
    return Stand(read_reconciled_lanes(connection), breaks)


def wait_posted(ledger: Ledger, timeout_seconds: float) -> None:
    """Wait until all intents that Kafka has now are posted. Raise NotReconciled if that takes longer."""
    received = _received(ledger)
    if not wait_until(lambda: _short_of(ledger, received)[0] == 0, timeout_seconds=timeout_seconds):
        raise NotReconciled(
            f"{_short_of(ledger, received)[0]:,} intents were not posted within {timeout_seconds:.0f} seconds: read"
            " the log of posting, and try again with a lower RATE."
        )


def wait_reconciled(ledger: Ledger, timeout_seconds: float, progress: Progress) -> Stand:
    """Wait until all intents that Kafka has now are reconciled. Raise NotReconciled if that takes longer."""
    received = _received(ledger)
    total = _short_of(ledger, received)[1]

    def is_there() -> bool:
        missing = _short_of(ledger, received)[1]
        progress(total - missing, total)
        return missing == 0

    if not wait_until(is_there, timeout_seconds=timeout_seconds):
        raise NotReconciled(
            f"{_short_of(ledger, received)[1]:,} intents were not reconciled within {timeout_seconds:.0f} seconds:"
            " read the logs of posting, relay and reconciliation."
        )
    return stand_now(ledger)


def _received(ledger: Ledger) -> dict[int, int]:
    topics = Topics(ledger.settings.topic_prefix)
    return read_topic_state(make_admin_client(ledger.kafka), topics.intents).high


def _short_of(ledger: Ledger, received: Mapping[int, int]) -> tuple[int, int]:
    """Return how many of the intents below these offsets are not posted, and how many are not reconciled."""
    with open_glance(ledger.postgres_dsn) as connection:
        lanes = {row.lane: row for row in list_lane_progress(connection)}
    unposted = unreconciled = 0
    for lane, end in received.items():
        row = lanes.get(lane)
        if row is None:
            unposted, unreconciled = unposted + end, unreconciled + end
            continue
        # The journal has one row for each offset from the first, so an offset and a sequence number convert directly.
        unposted += max(end - row.next_offset, 0)
        unreconciled += max(end - (row.first_offset + (row.reconciled_seq or 0)), 0)
    return unposted, unreconciled


def gather(ledger: Ledger, run: str, before: Stand, after: Stand, accounts: Iterable[str]) -> Evidence:
    """Read the records that reconciliation checked between `before` and `after`.

    `accounts` are prefixes of addresses, such as `users:42:`. Raise NotReconciled if the topic's records differ from
    reconciliation's counts.
    """
    topics = Topics(ledger.settings.topic_prefix)
    records: list[Record] = []
    others = 0
    for lane, end in sorted(after.lanes.items()):
        begin = before.lanes.get(lane, ReconciledLane(lane, 0, 0, 0, 0, 0, 0, 0))
        checked = _checked(ledger, topics.journal, begin, end)
        require_agreement(begin, end, [record for _, record in checked])
        if not checked:
            continue
        first, last = checked[0][1]["source_offset"], checked[-1][1]["source_offset"]
        accepted_ms = {
            message.offset(): message.timestamp()[1]
            for message in _read(ledger.kafka, topics.intents, lane, first, last + 1)
        }
        ours = [
            _record(record, published_ms - accepted_ms.get(record["source_offset"], published_ms))
            for published_ms, record in checked
            if (record["idempotency_key"] or "").startswith(f"{run}-")
        ]
        records += ours
        others += len(checked) - len(ours)
    tenants = {record.tenant for record in records}
    with open_glance(ledger.postgres_dsn) as connection:
        sums = [
            found
            for tenant in sorted(tenants)
            for prefix in accounts
            for found in read_reconciled_sums(connection, tenant, prefix)
        ]
    new = after.breaks - before.breaks
    return Evidence(records, others, sums, {" ".join(what): count for what, count in sorted(new.items())})


def _record(record: Mapping[str, Any], milliseconds: int) -> Record:
    return Record(
        record["idempotency_key"], record["tenant"], record["intent_id"], record["outcome"], record["reason"],
        record["lane"], record["seq"],
        tuple((leg["account"], leg["direction"], leg["amount_minor"]) for leg in record["legs"]),
        max(milliseconds, 0) / 1000,
    )  # fmt: skip


def require_agreement(begin: ReconciledLane, end: ReconciledLane, records: list[dict[str, Any]]) -> None:
    """Raise NotReconciled unless `records` are all records of the lane from `begin` to `end`, with the same counts."""
    seqs = [record["seq"] for record in records]
    if seqs != list(range(begin.next_seq, end.next_seq)):
        raise NotReconciled(
            f"Reconciliation has checked {end.next_seq - begin.next_seq:,} records of lane {end.lane}, but"
            f" ledger.journal has {len(seqs):,} other ones there: run `ledgerline reconcile`."
        )
    found = Counter(record["outcome"] for record in records)
    counted = {fate: getattr(end, fate) - getattr(begin, fate) for fate in FATES}
    if {fate: found[fate] for fate in FATES} != counted:
        raise NotReconciled(
            f"Reconciliation counts {counted} in lane {end.lane}, but ledger.journal has {dict(found)} there: run"
            " `ledgerline reconcile`."
        )


def _checked(
    ledger: Ledger, topic: str, begin: ReconciledLane, end: ReconciledLane
) -> list[tuple[int, dict[str, Any]]]:
    """Return the relay time (milliseconds since 1970) and the content of each record, each once, in order."""
    schema = parse_own_schema("ledger.journal-value")
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    for message in _read(ledger.kafka, topic, end.lane, begin.next_offset, end.next_offset):
        record = read_body(message.value() or b"", schema)
        found.setdefault(record["seq"], (message.timestamp()[1], record))
    return [found[seq] for seq in sorted(found)]


def _read(kafka: Kafka, topic: str, partition: int, begin: int, end: int) -> Iterator[Message]:
    """Yield the committed messages of a partition from offset `begin` to before `end`.

    `end` must not be past the partition's end. Raise NotReconciled if Kafka does not hand all of them over in time.
    """
    if begin >= end:
        return
    consumer = Consumer(
        {
            **kafka.make_client_options(),
            "group.id": "ledgerline-load",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, begin)])
        deadline = time.monotonic() + READ_SECONDS_MAX
        while time.monotonic() < deadline:
            for message in consumer.consume(MESSAGES_AT_ONCE, 0.1):
                error = message.error()
                if error is None:
                    deadline = time.monotonic() + READ_SECONDS_MAX
                    if message.offset() < end:
                        yield message
                    if message.offset() >= end - 1:
                        return
                elif error.code() == KafkaError._PARTITION_EOF:
                    if (message.offset() or 0) >= end:
                        return
                elif not error.retriable():
                    raise NotReconciled(f"Kafka does not hand over {topic} [{partition}]: {error.str()}.")
    except KafkaException as error:
        raise NotReconciled(f"Kafka does not hand over {topic} [{partition}]: {error}.") from error
    finally:
        consumer.close()
    raise NotReconciled(f"Kafka does not hand over {topic} [{partition}] to the end {end}: try again.")
