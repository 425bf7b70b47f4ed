"""What operators see of the database: lanes, outcomes, breaks, and the quarantine with its retries.

Every function takes a connection of the role ledgerline_operator, which reads everything and writes only the record
of a retry. Times are microseconds since 1970-01-01 UTC.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import class_row, dict_row

from db.agent_connection import snapshot
from db.connections import DatabaseError, connect
from db.queries import load

SQL: Final = load("operations")
ROLE: Final = "ledgerline_operator"


class LaneProgress(NamedTuple):
    """Where a lane stands in Postgres. The provers' numbers are None where they have not met the lane."""

    lane: int
    topic: str
    topic_id: str
    first_offset: int
    next_offset: int
    next_seq: int
    head: bytes
    booked_time: int
    reconciled_seq: int | None
    audited_seq: int | None


class BreakCount(NamedTuple):
    """How many differences of one kind stand in one state."""

    found_by: str
    kind: str
    state: str
    breaks: int
    first_opened_time: int


class Checkpoint(NamedTuple):
    """A signed checkpoint of audit."""

    checkpoint: int
    signed_time: int
    key_id: str
    root: bytes


class Which(StrEnum):
    """Which quarantined rows are meant; the last two leave out rows that are themselves a retry's sorry end."""

    ALL = "all"
    UNTRIED = "untried"
    """Never sent again."""
    UNSETTLED = "unsettled"
    """Sent again or not: no retry came to a better end."""


class Place(NamedTuple):
    """A place in the list of quarantined rows, which is in the order of their booking."""

    booked_time: int
    lane: int
    seq: int


LIST_START: Final = Place(-1, -1, -1)


class QuarantinedRow(NamedTuple):
    """A quarantined journal row, without its bytes."""

    lane: int
    seq: int
    reason: str
    detail: str
    source_topic: str
    source_offset: int
    booked_time: int
    value_bytes: int
    retries: int
    retry_of_lane: int | None
    """With `retry_of_seq` the row that these bytes were a retry of; None where they came by themselves."""
    retry_of_seq: int | None

    @property
    def place(self) -> Place:
        """Where the row stands in the list."""
        return Place(self.booked_time, self.lane, self.seq)


class QuarantinedBytes(NamedTuple):
    """A quarantined journal row with what stood on the topic, byte for byte."""

    lane: int
    seq: int
    reason: str
    detail: str
    source_topic: str
    source_offset: int
    booked_time: int
    fingerprint: bytes
    hash: bytes
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Retry(NamedTuple):
    """One time that quarantined bytes were sent again; what became of it is None until it is journalled."""

    retried_time: datetime
    retried_by: str
    topic: str
    partition: int
    source_offset: int
    seq: int | None
    outcome: str | None
    reason: str | None


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what an operator can mend into sentences."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        cause = str(error).splitlines()[0]
        raise DatabaseError(f"The database is not prepared ({cause}): run `ledgerline prepare`.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        cause = str(error).splitlines()[0]
        raise DatabaseError(f"This login may not do that ({cause}): grant it the role {ROLE}.") from error


@contextmanager
def operator(dsn: str) -> Iterator[Connection[Any]]:
    """A connection for single statements that write; DatabaseError where Postgres is away or not prepared."""
    with _explained(), connect(dsn, ROLE, autocommit=True) as connection:
        yield connection


@contextmanager
def glance(dsn: str) -> Iterator[Connection[Any]]:
    """A connection that only reads one unchanging state; DatabaseError where Postgres is away or not prepared."""
    with _explained(), snapshot(dsn, ROLE) as connection:
        yield connection


def lane_progress(connection: Connection[Any]) -> list[LaneProgress]:
    """Every lane that was ever posted to, in order."""
    return connection.cursor(row_factory=class_row(LaneProgress)).execute(SQL["lanes"]).fetchall()


def outcome_counts(connection: Connection[Any]) -> dict[str, int]:
    """Journal rows by outcome; outcomes that never came are left out."""
    return dict(connection.execute(SQL["outcomes"]).fetchall())


def break_counts(connection: Connection[Any]) -> list[BreakCount]:
    """Differences that are not resolved."""
    return connection.cursor(row_factory=class_row(BreakCount)).execute(SQL["breaks"]).fetchall()


def last_checkpoint(connection: Connection[Any]) -> Checkpoint | None:
    """The last checkpoint that audit has signed; None before the first."""
    return connection.cursor(row_factory=class_row(Checkpoint)).execute(SQL["checkpoint"]).fetchone()


def quarantined_rows(
    connection: Connection[Any],
    *,
    after: Place = LIST_START,
    limit: int = 100,
    reason: str | None = None,
    which: Which = Which.ALL,
) -> list[QuarantinedRow]:
    """Up to `limit` quarantined rows past a place, the oldest first."""
    asked = {
        "after_time": after.booked_time,
        "after_lane": after.lane,
        "after_seq": after.seq,
        "limit": limit,
        "reason": reason,
        "which": which.value,
    }
    return connection.cursor(row_factory=class_row(QuarantinedRow)).execute(SQL["quarantined"], asked).fetchall()


def quarantined_count(connection: Connection[Any], *, reason: str | None = None, which: Which = Which.ALL) -> int:
    """How many quarantined rows there are."""
    rows = connection.execute(SQL["quarantined_count"], {"reason": reason, "which": which.value}).fetchall()
    return int(rows[0][0])


def quarantined_bytes(connection: Connection[Any], lane: int, seq: int) -> QuarantinedBytes | None:
    """One quarantined row with its bytes; None where (lane, seq) is no such row."""
    cursor = connection.cursor(row_factory=dict_row)
    row = cursor.execute(SQL["quarantined_bytes"], {"lane": lane, "seq": seq}).fetchone()
    if row is None:
        return None
    headers = [(name, None if value is None else bytes.fromhex(value)) for name, value in row["headers"]]
    return QuarantinedBytes(**{**row, "headers": headers})


def retries_of(connection: Connection[Any], lane: int, seq: int) -> list[Retry]:
    """Each time that a quarantined row was sent again, the first one first."""
    cursor = connection.cursor(row_factory=class_row(Retry))
    return cursor.execute(SQL["retries"], {"lane": lane, "seq": seq}).fetchall()


def add_retry(
    connection: Connection[Any], lane: int, seq: int, *, retried_by: str, topic: str, partition: int, source_offset: int
) -> None:
    """Remember that a quarantined row was sent again, and where it stands on the topic now."""
    connection.execute(
        SQL["add_retry"],
        {
            "lane": lane,
            "seq": seq,
            "retried_by": retried_by,
            "topic": topic,
            "partition": partition,
            "source_offset": source_offset,
        },
    )
