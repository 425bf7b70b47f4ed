"""The relay's queries: lanes, journal rows in order, and the notification of each posting transaction."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection, Notify
from psycopg.rows import class_row, dict_row

from db.listening import ListeningConnection
from db.queries import load
from domain.intents import DIRECTION_NAMES

SQL: Final = load("relay")

# Per read, of the messages behind quarantined rows. Each may have a megabyte, and one read is held in memory.
RAW_BYTES_MAX: Final = 16 * 1024 * 1024
TRACED_CHANNEL: Final = "ledgerline_traced"


class LaneEnd(NamedTuple):
    """The end of a lane's journal, of a chain of facts, or of a lane of the outbox."""

    lane: int
    """A number below 0 is that of a chain of facts (domain.facts)."""
    next_seq: int
    booked_time: int
    """The booking time of the last row, in microseconds since 1970."""


class TracedBatch(NamedTuple):
    """A batch that posting traced."""

    traceparent: str
    """The traceparent of the batch's span."""
    next_seqs: dict[int, int]
    """Lane -> the next seq after the batch."""


def read_facts(connection: Connection[Any], chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
    """Return a chain's facts from `first_seq` on, in order, in the form of Avro's FrameFact."""
    asked = {"chain": chain, "first_seq": first_seq, "facts_max": facts_max}
    rows = connection.cursor(row_factory=dict_row).execute(SQL["facts"], asked).fetchall()
    for row, before in zip(rows, (None, *rows), strict=False):
        row["hash"] = bytes(row["hash"])
        row["previous_hash"] = bytes(row["previous_hash"]) if before is None else before["hash"]
    return rows


class RelayStore(ListeningConnection):
    """The relay's queries, over one kept connection as ledgerline_relay that listens. Not thread-safe."""

    def __init__(self, dsn: str, *, hears_traced: bool = False) -> None:
        """Listen for traced batches too if `hears_traced`; `traced` needs that."""
        super().__init__(dsn, "ledgerline_relay")
        self._hears_traced = hears_traced
        self._traced: list[TracedBatch] = []
        self._was_called = False

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(SQL["listen"])
        if self._hears_traced:
            connection.execute(SQL["listen_traced"])

    def lanes(self, instance: int, instances: int) -> list[LaneEnd]:
        """Return the instance's lanes and their chains of facts, in order; instance 0 has the operators' chain."""
        with self.statements() as connection:
            cursor = connection.cursor(row_factory=class_row(LaneEnd))
            return cursor.execute(SQL["lanes"], {"instance": instance, "instances": instances}).fetchall()

    def records(self, lane: int, first_seq: int, records_max: int) -> list[dict[str, Any]]:
        """Return journal records from `first_seq` on, in the form of Avro's JournalRecord.

        Quarantined records also have raw_key, raw_value and raw_headers. The list is shorter than `records_max` if
        these are large. If a signed range ends in the list, the last such end is also the list's end: a range that
        posting signed is published whole, in one Kafka transaction.

        A lane has one writer, so a row never appears after a later row of its lane.
        """
        asked = {"lane": lane, "first_seq": first_seq, "records_max": records_max}
        bounded = {**asked, "raw_bytes_max": RAW_BYTES_MAX}
        with self.statements() as connection:
            rows = connection.cursor(row_factory=dict_row, binary=True).execute(SQL["records"], bounded).fetchall()
            legs = connection.cursor(binary=True).execute(SQL["legs"], asked).fetchall()
            heads = connection.cursor(binary=True).execute(SQL["signed_heads"], asked).fetchall()
        by_seq: dict[int, dict[str, Any]] = {}
        for row in rows:
            row["metadata"] = row["metadata"] or {}
            row["legs"] = []
            by_seq[row["seq"]] = row
        for seq, address, direction, amount_minor, currency in legs:
            if seq in by_seq:  # else posted between the two statements: the next batch brings it
                by_seq[seq]["legs"].append(
                    {
                        "account": address,
                        "direction": DIRECTION_NAMES[direction],
                        "amount_minor": amount_minor,
                        "currency": currency,
                    }
                )
        return add_signatures(rows, heads)

    def facts(self, chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
        """Return a chain's facts from `first_seq` on, in order, in the form of Avro's FrameFact."""
        with self.statements() as connection:
            return read_facts(connection, chain, first_seq, facts_max)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the next posting transaction; return whether one came."""
        with self.statements() as connection:
            came = self._hear_all(connection, 0 if self._was_called else seconds) or self._was_called
        self._was_called = False
        return came

    def traced(self) -> list[TracedBatch]:
        """Return the traced batches that posting has announced; each is returned once."""
        with self.statements() as connection:
            # This may read the notification that `wait` waits for: remember it for `wait`.
            self._was_called |= self._hear(connection, 0)
        told, self._traced = self._traced, []
        return told

    def _take(self, notification: Notify) -> None:
        """Keep a traced batch."""
        if notification.channel == TRACED_CHANNEL:
            traceparent, _, stands = notification.payload.partition(" ")
            pairs = (stand.split(":") for stand in stands.split(","))
            self._traced.append(TracedBatch(traceparent, {int(lane): int(seq) for lane, seq in pairs}))


def add_signatures(rows: list[dict[str, Any]], heads: Sequence[tuple[int, int, bytes]]) -> list[dict[str, Any]]:
    """Return the rows up to the end of the last signed range, with each signature in the last row of its range.

    Return all rows if no range ends in them. `heads`: (first_seq, next_seq, signature) in order.
    """
    if not rows:
        return rows
    first, whole = rows[0]["seq"], len(rows)
    for first_seq, next_seq, signature in heads:
        if next_seq - first <= len(rows):
            rows[next_seq - first - 1] |= {"signed_from": first_seq, "signature": signature}
            whole = next_seq - first
    return rows[:whole]
