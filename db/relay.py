"""What the relay reads: lanes, journal rows in order, and the wake-up call of each posting transaction."""

from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import dict_row

from db.kept_connection import KeptConnection
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


class RelayStore(KeptConnection):
    """What the relay asks, over one kept connection as ledgerline_relay, which listens. Not safe for threads."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "ledgerline_relay")

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(SQL["listen"])

    def lanes(self, shard: int, shards: int) -> list[PostedLane]:
        """The lanes of the shard, in order."""
        with self.statements() as connection:
            return [PostedLane(*row) for row in connection.execute(SQL["lanes"], {"shard": shard, "shards": shards})]

    def records(self, lane: int, first_seq: int, records_max: int) -> list[dict[str, Any]]:
        """Journal records from `first_seq` on, as Avro's JournalRecord has them, and beside that raw_key, raw_value and
        raw_headers of those in quarantine; fewer than `records_max` where those are large.

        A row of a lane never appears after a later one, as a lane has one writer.
        """
        asked = {"lane": lane, "first_seq": first_seq, "records_max": records_max}
        bounded = {**asked, "raw_bytes_max": RAW_BYTES_MAX}
        with self.statements() as connection:
            rows = connection.cursor(row_factory=dict_row, binary=True).execute(SQL["records"], bounded).fetchall()
            legs = connection.cursor(binary=True).execute(SQL["legs"], asked).fetchall()
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
        return rows

    def wait(self, seconds: float) -> bool:
        """Wait for the next posting transaction, at most so long; True where one came."""
        with self.statements() as connection:
            came = any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
            # One look at the lanes answers all the calls that came meanwhile.
            while came and any(True for _ in connection.notifies(timeout=0)):
                pass
        return came
