"""What the relay reads: lanes, journal rows in order, and the wake-up call of each posting transaction."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import dict_row

from db.kept_connection import KeptConnection
from db.queries import load
from domain.intents import DIRECTION_NAMES

SQL: Final = load("relay")

# Of the messages behind quarantined rows, which may be a megabyte each; what is read at once is held in memory.
RAW_BYTES_MAX: Final = 16 * 1024 * 1024
TRACED_CHANNEL: Final = "ledgerline_traced"


class PostedLane(NamedTuple):
    """How far a lane is posted, or a chain of facts written."""

    lane: int
    """Below 0: the chain of this number (domain.facts)."""
    next_seq: int
    booked_time: int
    """Of its last row, in microseconds since 1970."""


class TracedBatch(NamedTuple):
    """A batch of posting that was traced."""

    traceparent: str
    """Of its span."""
    next_seqs: dict[int, int]
    """Where each of its lanes stands behind it."""


def facts_of(connection: Connection[Any], chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
    """Facts of a chain from `first_seq` on, in order, as Avro's FrameFact has them."""
    asked = {"chain": chain, "first_seq": first_seq, "facts_max": facts_max}
    rows = connection.cursor(row_factory=dict_row).execute(SQL["facts"], asked).fetchall()
    for row, before in zip(rows, (None, *rows), strict=False):
        row["hash"] = bytes(row["hash"])
        row["previous_hash"] = bytes(row["previous_hash"]) if before is None else before["hash"]
    return rows


class RelayStore(KeptConnection):
    """What the relay asks, over one kept connection as ledgerline_relay, which listens. Not safe for threads."""

    def __init__(self, dsn: str, *, hears_traced: bool = False) -> None:
        """`hears_traced`: whether `traced` will be asked."""
        super().__init__(dsn, "ledgerline_relay")
        self._hears_traced = hears_traced
        self._traced: list[TracedBatch] = []
        self._was_called = False

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(SQL["listen"])
        if self._hears_traced:
            connection.execute(SQL["listen_traced"])

    def lanes(self, shard: int, shards: int) -> list[PostedLane]:
        """The lanes of the shard and their chains of facts, in order; the operators' chain is the first shard's."""
        with self.statements() as connection:
            return [PostedLane(*row) for row in connection.execute(SQL["lanes"], {"shard": shard, "shards": shards})]

    def records(self, lane: int, first_seq: int, records_max: int) -> list[dict[str, Any]]:
        """Journal records from `first_seq` on, as Avro's JournalRecord has them, and beside that raw_key, raw_value and
        raw_headers of those in quarantine; fewer than `records_max` where those are large, or where what comes last is
        part of a range that posting has signed: it is published whole, in one transaction of Kafka.

        A row of a lane never appears after a later one, as a lane has one writer.
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
            if seq in by_seq:  # posted between the two statements: comes with the next batch
                by_seq[seq]["legs"].append(
                    {
                        "account": address,
                        "direction": DIRECTION_NAMES[direction],
                        "amount_minor": amount_minor,
                        "currency": currency,
                    }
                )
        return with_signatures(rows, heads)

    def facts(self, chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
        """Facts of a chain from `first_seq` on, in order, as Avro's FrameFact has them."""
        with self.statements() as connection:
            return facts_of(connection, chain, first_seq, facts_max)

    def wait(self, seconds: float) -> bool:
        """Wait for the next posting transaction, at most so long; True where one came."""
        with self.statements() as connection:
            came = self._was_called or self._hear(connection, seconds, stop_after=1)
            # One look at the lanes answers all the calls that came meanwhile.
            while came and self._hear(connection, 0):
                pass
        self._was_called = False
        return came

    def traced(self) -> list[TracedBatch]:
        """The batches that were traced, as far as posting has told of them; each is given once."""
        with self.statements() as connection:
            # Calls of `wait` that are heard here are remembered for it.
            self._was_called |= self._hear(connection, 0)
        told, self._traced = self._traced, []
        return told

    def _hear(self, connection: Connection[Any], seconds: float, stop_after: int | None = None) -> bool:
        """Whether anything was told within so many seconds; what was told of traces is kept."""
        heard = list(connection.notifies(timeout=seconds, stop_after=stop_after))
        for notification in heard:
            if notification.channel == TRACED_CHANNEL:
                traceparent, _, stands = notification.payload.partition(" ")
                pairs = (stand.split(":") for stand in stands.split(","))
                self._traced.append(TracedBatch(traceparent, {int(lane): int(seq) for lane, seq in pairs}))
        return bool(heard)


def with_signatures(rows: list[dict[str, Any]], heads: Sequence[tuple[int, int, bytes]]) -> list[dict[str, Any]]:
    """The rows up to the end of the last signed range among them, with the signatures in the last row of each.

    All of them where no range ends in them. `heads`: (first_seq, next_seq, signature) in order.
    """
    if not rows:
        return rows
    first, whole = rows[0]["seq"], len(rows)
    for first_seq, next_seq, signature in heads:
        if next_seq - first <= len(rows):
            rows[next_seq - first - 1] |= {"signed_from": first_seq, "signature": signature}
            whole = next_seq - first
    return rows[:whole]
