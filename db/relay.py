"""What the relay reads: lanes, journal rows in order, and the wake-up call of each posting transaction."""

from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import dict_row

from db.connections import TRANSIENT, connect
from db.queries import load
from domain.intents import DIRECTION_NAMES

SQL: Final = load("relay")

# Of the messages behind quarantined rows, which may be a megabyte each; what is read at once is held in memory.
RAW_BYTES_MAX: Final = 16 * 1024 * 1024


class PostedLane(NamedTuple):
    """How far a lane is posted."""

    lane: int
    next_seq: int
    booked_time: int
    """Of its last row, in microseconds since 1970."""


class RelayStore:
    """One connection as ledgerline_relay, made anew after it broke. Not safe for threads."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, "ledgerline_relay", autocommit=True)
            self._connection.execute(SQL["listen"])
        return self._connection

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one, which listens from then on."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lanes(self, shard: int, shards: int) -> list[PostedLane]:
        """The lanes of the shard, in order."""
        rows = self._open().execute(SQL["lanes"], {"shard": shard, "shards": shards})
        return [PostedLane(*row) for row in rows]

    def records(self, lane: int, first_seq: int, records_max: int) -> list[dict[str, Any]]:
        """Journal records from `first_seq` on, as Avro's JournalRecord has them, and beside that raw_key, raw_value and
        raw_headers of those in quarantine; fewer than `records_max` where those are large.

        A row of a lane never appears after a later one, as a lane has one writer.
        """
        asked = {"lane": lane, "first_seq": first_seq, "records_max": records_max}
        bounded = {**asked, "raw_bytes_max": RAW_BYTES_MAX}
        connection = self._open()
        rows = connection.cursor(row_factory=dict_row, binary=True).execute(SQL["records"], bounded).fetchall()
        by_seq: dict[int, dict[str, Any]] = {}
        for row in rows:
            row["metadata"] = row["metadata"] or {}
            row["legs"] = []
            by_seq[row["seq"]] = row
        legs = connection.cursor(binary=True).execute(SQL["legs"], asked)
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
        return rows

    def wait(self, seconds: float) -> bool:
        """Wait for the next posting transaction, at most so long; True where one came."""
        connection = self._open()
        try:
            came = any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
            # One look at the lanes answers all the calls that came meanwhile.
            while came and any(True for _ in connection.notifies(timeout=0)):
                pass
        except TRANSIENT:
            self.close()
            raise
        return came
