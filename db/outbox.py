"""The outbox: a capability appends events in the transaction of its change; the relay reads, publishes and prunes them.

`append` locks the events' lanes until the commit, so each lane numbers its events without gaps and in the order of the
commits. It is the last statement of a transaction, and there is one in a transaction: the lanes are then locked for one
commit only, and transactions cannot deadlock over them.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

from db.listening import ListeningConnection
from db.queries import load
from db.relay import LaneEnd
from domain.events import Event, choose_lane, make_event_id

SQL: Final = load("outbox")
PRUNED_MAX: Final = 10_000
"""The most events that one call of `prune` deletes."""


class EncodedEvent(NamedTuple):
    """An event, and its record as Avro in the registry's wire format."""

    event: Event
    value: bytes
    correlation_id: str | None = None
    traceparent: str | None = None


class StoredEvent(NamedTuple):
    """A row of the outbox."""

    lane: int
    seq: int
    event_id: UUID
    family: str
    type: str
    tenant: str
    aggregate: str
    version: int
    value: bytes
    correlation_id: str | None
    traceparent: str | None
    occurred_time: int
    appended_time: int
    """Both times in microseconds since 1970."""


def append(connection: Connection[Any], encoded: Sequence[EncodedEvent]) -> None:
    """Append events in the connection's transaction.

    Postgres raises UniqueViolation if a version of an aggregate has an event already, and then nothing is appended.
    """
    connection.execute(SQL["append"], _make_values(encoded))


async def append_async(connection: AsyncConnection[Any], encoded: Sequence[EncodedEvent]) -> None:
    """Do the same as `append` for the API's connections."""
    await connection.execute(SQL["append"], _make_values(encoded))


def _make_values(encoded: Sequence[EncodedEvent]) -> dict[str, Any]:
    events = [item.event for item in encoded]
    return {
        "lanes": [choose_lane(event) for event in events],
        "event_ids": [make_event_id(event) for event in events],
        "families": [event.family for event in events],
        "types": [event.type for event in events],
        "tenants": [event.tenant for event in events],
        "aggregates": [event.aggregate for event in events],
        "versions": [event.version for event in events],
        "contents": [item.value for item in encoded],
        "correlation_ids": [item.correlation_id for item in encoded],
        "traceparents": [item.traceparent for item in encoded],
        "occurred_times": [event.occurred_time for event in events],
    }


class OutboxStore(ListeningConnection):
    """The relay's queries of the outbox, over one kept connection as ledgerline_relay that listens. Not thread-safe."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "ledgerline_worker")

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(SQL["listen"])

    def read_lanes(self, instance: int, instances: int) -> list[LaneEnd]:
        """Return the ends of the lanes of an instance, in order."""
        with self.statements() as connection:
            cursor = connection.cursor(row_factory=class_row(LaneEnd))
            return cursor.execute(SQL["lanes"], {"instance": instance, "instances": instances}).fetchall()

    def read_events(self, lane: int, first_seq: int, events_max: int) -> list[StoredEvent]:
        """Return a lane's events from `first_seq` on, in order."""
        asked = {"lane": lane, "first_seq": first_seq, "events_max": events_max}
        with self.statements() as connection:
            cursor = connection.cursor(row_factory=class_row(StoredEvent), binary=True)
            return cursor.execute(SQL["events"], asked).fetchall()

    def prune(self, lane: int, published_seq: int, before_time: int) -> int:
        """Delete events before this seq that were appended before this time, at most PRUNED_MAX; return their number.

        `before_time`: microseconds since 1970.
        """
        asked = {
            "lane": lane, "published_seq": published_seq, "before_time": before_time, "events_max": PRUNED_MAX,
        }  # fmt: skip
        with self.statements() as connection:
            return connection.execute(SQL["prune"], asked).rowcount

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the next append to commit; return whether one did."""
        with self.statements() as connection:
            return self._hear_all(connection, seconds)
