"""The relay of the outbox publishes the capabilities' events, each exactly once for read_committed readers.

An event goes to its family's topic with the aggregate as the key, so all events of an aggregate are in one partition,
in the order of its versions. The headers are those of CloudEvents 1.0 in Kafka's binary mode. A reader that must be
safe against a repeat (a topic that was copied, or that is read again) dedupes on `ce_id`.
"""

import time
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from prometheus_client import Counter, Gauge

from db.outbox import OutboxStore, StoredEvent
from db.relay import LaneEnd
from domain.times import format_rfc3339
from producers.encoding import Encoder
from producers.relay_core import Outgoing, RelayOptions, TransactionalRelay
from producers.relay_positions import RelayAhead, RelayPosition
from runtime import tracing

PRUNE_SECONDS: Final = 10.0
"""The time between two looks for events to delete."""
NO_HASH: Final = b""
EVENTS_MAX: Final = 1000
"""The most events in one transaction. They are held in memory, and each may have 64 KiB."""

PUBLISHED: Final = Counter("ledgerline_outbox_events", "Events handed to Kafka, in committed transactions.", ["family"])
LAG_EVENTS: Final = Gauge("ledgerline_outbox_lag_events", "Events of the outbox not yet published.", ["lane"])
LAG_SECONDS: Final = Gauge(
    "ledgerline_outbox_lag_seconds", "Age of the lane's first event that is not yet published.", ["lane"]
)
PRUNED: Final = Counter("ledgerline_outbox_pruned", "Published events that were deleted from the outbox.")


class OutboxRelay(TransactionalRelay[StoredEvent]):
    """Relays the outbox's lanes of one instance, and deletes published events after `kept_seconds`."""

    name = "outbox"
    lag_records = LAG_EVENTS
    lag_seconds = LAG_SECONDS
    _store: OutboxStore

    def __init__(
        self, store: OutboxStore, encode_position: Encoder, options: RelayOptions, kept_seconds: float, **core: Any
    ) -> None:
        """`core`: keyword arguments of TransactionalRelay."""
        options = replace(options, records_max=min(options.records_max, EVENTS_MAX))
        super().__init__(store, encode_position, options, **core)
        self.positions_topic = options.topics.outbox
        self._kept_seconds = kept_seconds
        self._prune_due = 0.0

    def round(self) -> int:
        """Publish at most one transaction of events; prune if nothing waits. Return the number of events."""
        self._get_producer().poll(0)  # calls the statistics callback
        lanes = self._store.read_lanes(self._options.instance, self._options.instances)
        pending = self._read_pending(lanes)
        if not any(pending.values()):
            self._prune(lanes)
            return 0
        self._fault("read")
        positions = {lane: RelayPosition(rows[-1].seq + 1, NO_HASH) for lane, rows in pending.items() if rows}
        self._transact(self._make_outgoing(pending), positions)
        for family, number in Tally(row.family for rows in pending.values() for row in rows).items():
            PUBLISHED.labels(family).inc(number)
        return sum(map(len, pending.values()))

    def _make_outgoing(self, pending: dict[int, list[StoredEvent]]) -> Iterator[Outgoing]:
        for rows in pending.values():
            for row in rows:
                topic = self._options.topics.name_events(row.family)
                yield Outgoing(topic, None, f"{row.tenant}/{row.aggregate}".encode(), row.value, make_headers(row))

    def _read(self, lane: int, from_here: RelayPosition, rows_max: int) -> list[StoredEvent]:
        rows = self._store.read_events(lane, from_here.next_seq, rows_max)
        if not rows or rows[0].seq != from_here.next_seq:
            left = f"its first event left is {rows[0].seq}" if rows else "no later event is left"
            raise RelayAhead(
                f"The outbox's lane {lane} was published up to {from_here.next_seq}, but {left}: {self.positions_topic}"
                " lost positions; restore it before you start the relay."
            )
        return rows

    def _get_time(self, row: StoredEvent) -> int:
        return row.appended_time

    def _make_ahead_error(self, lane: int, relayed_seq: int, next_seq: int) -> RelayAhead:
        return RelayAhead(
            f"The outbox's lane {lane} was published up to {relayed_seq}, but the database has it up to {next_seq}:"
            " the database was restored from a backup that lacks published events; see docs/decisions/0029-outbox.md."
        )

    def _prune(self, lanes: Sequence[LaneEnd]) -> None:
        """Delete published events that are older than the outbox keeps, one page of each lane, if it is time."""
        if time.monotonic() < self._prune_due:
            return
        self._prune_due = time.monotonic() + PRUNE_SECONDS
        before_time = int((time.time() - self._kept_seconds) * 1_000_000)
        for lane in lanes:
            published_seq = self._relayed.get(lane.lane, RelayPosition()).next_seq
            PRUNED.inc(self._store.prune(lane.lane, published_seq, before_time))


def make_headers(row: StoredEvent) -> dict[str, bytes]:
    """Return an event's headers: W3C trace context, correlation id, and the attributes of CloudEvents 1.0."""
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": str(row.event_id).encode(),
        "ce_source": f"/ledgerline/{row.family}".encode(),
        "ce_type": f"ledgerline.{row.family}.{row.type}".encode(),
        "ce_subject": row.aggregate.encode(),
        "ce_time": format_rfc3339(row.occurred_time).encode(),
        "ce_tenant": row.tenant.encode(),
        "ce_aggregateversion": str(row.version).encode(),
        "content-type": b"application/avro",
    }
    if row.correlation_id is not None:
        headers[tracing.CORRELATION_ID] = row.correlation_id.encode()
    if row.traceparent is not None:
        headers[tracing.TRACEPARENT] = row.traceparent.encode()
    return headers
