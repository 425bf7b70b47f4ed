"""What both provers ask of Postgres: their positions in the lanes, and rows of the ledger outside every lane."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, LiteralString, Protocol, TypeVar

from psycopg import Connection
from psycopg.rows import class_row

from db.queries import load

SQL: Final = load("proving")


class LanePosition(Protocol):
    """A row of a prover's table of lanes; each prover has more columns than these."""

    @property
    def lane(self) -> int:
        """Return the number of the lane."""

    @property
    def next_offset(self) -> int:
        """Return the next offset of ledger.journal to read."""

    def _asdict(self) -> dict[str, Any]: ...


Row = TypeVar("Row", bound=LanePosition)


class LaneStore(Generic[Row]):
    """A prover's rows of lanes, within the caller's transactions."""

    def __init__(self, queries: Mapping[str, LiteralString], row_type: type[Row]) -> None:
        self._queries = queries
        self._row_type = row_type

    def lock(self, connection: Connection[Any], lanes: Sequence[int]) -> dict[int, Row]:
        """Lock the lanes in order, insert those that are new, and return all of them."""
        wanted = {"lanes": list(lanes)}
        cursor = connection.cursor(row_factory=class_row(self._row_type))
        rows = cursor.execute(self._queries["lock_lanes"], wanted).fetchall()
        if len(rows) < len(lanes):
            connection.execute(self._queries["make_lanes"], wanted)
            rows = cursor.execute(self._queries["lock_lanes"], wanted).fetchall()
        return {row.lane: row for row in rows}

    def read(self, connection: Connection[Any]) -> dict[int, Row]:
        """Return every lane that the prover has read from, without a lock."""
        cursor = connection.cursor(row_factory=class_row(self._row_type))
        return {row.lane: row for row in cursor.execute(self._queries["lanes"])}

    def move(self, connection: Connection[Any], rows: Iterable[Row]) -> None:
        """Store the rows of lanes that the caller has locked."""
        connection.cursor().executemany(self._queries["move_lane"], [row._asdict() for row in rows])


def find_stray_rows(connection: Connection[Any], limit: int) -> list[tuple[int, int, bool]]:
    """Return (lane, seq, whether there is a journal row) of rows and entries that lie outside every lane."""
    return [(row[0], row[1], row[2]) for row in connection.execute(SQL["stray_rows"], {"limit": limit})]
