"""What operators see of the database: lanes, outcomes, breaks, and the quarantine with its retries.

Every function takes a connection of the role ledgerline_operator, which reads everything and never writes what was
posted: it opens and closes the intake, has reconciliation read anew, and puts on record what was done. Times are
microseconds since 1970-01-01 UTC.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from db.agent_connection import snapshot
from db.connections import DatabaseError, connect
from db.queries import load

SQL: Final = load("operations")
ROLE: Final = "ledgerline_operator"


class LaneProgress(NamedTuple):
    """Where a lane stands in Postgres. The provers' numbers are None where they have not met the lane.

    The counts of fates are reconciliation's.
    """

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
    posted: int | None
    duplicate: int | None
    idempotency_conflict: int | None
    rejected: int | None
    quarantined: int | None
    missing: int
    """Records that reconciliation still waits for, though later ones came."""


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


class AgentPosition(NamedTuple):
    """Where an agent stands in a lane of its topic, by its own store."""

    agent: str
    lane: int
    next_offset: int
    next_seq: int


class Intake(NamedTuple):
    """Whether the API takes new intents in."""

    closed_because: str | None
    """What clients are told; None while it is open."""
    lanes: int | None
    """How many lanes there are at least; None before any were added."""


class OperationKind(StrEnum):
    """What an operator can do that is kept on record; docs/CLI.md documents each."""

    INTAKE_CLOSED = "intake_closed"
    INTAKE_OPENED = "intake_opened"
    LANES_ADDING = "lanes_adding"
    LANES_ADDED = "lanes_added"
    OFFSETS_TOLD = "offsets_told"
    RECONCILIATION_REWOUND = "reconciliation_rewound"
    KEY_ADDED = "key_added"
    KEY_CHANGED = "key_changed"
    KEY_REVOKED = "key_revoked"
    KEY_REMOVED = "key_removed"
    TENANT_ADDED = "tenant_added"
    UNIT_ADDED = "unit_added"
    CHART_ADDED = "chart_added"
    CHART_CHANGED = "chart_changed"
    CHART_REMOVED = "chart_removed"


class Operation(NamedTuple):
    """One thing that an operator did."""

    operation_id: int
    done_time: datetime
    done_by: str
    """Who sat there, as the machine says."""
    login: str
    """Who logged in, as Postgres knows."""
    operation: str
    detail: dict[str, Any]


class Which(StrEnum):
    """Which quarantined rows are meant; the last two leave out rows that are themselves a retry's sorry end."""

    ALL = "all"
    UNTRIED = "untried"
    """Never sent again, as far as Kafka confirmed."""
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
    """Those that Kafka confirmed."""
    unconfirmed: int
    """Retries that were begun, and may have been cut off."""
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

    retry_id: int
    retried_time: datetime
    retried_by: str
    topic: str
    partition: int
    source_offset: int | None
    """None where it did not go out, or where that is not known."""
    confirmed_time: datetime | None
    """None while it is under way, and where it was cut off."""
    seq: int | None
    outcome: str | None
    reason: str | None


class Unconfirmed(NamedTuple):
    """A retry of which it is not on record what came of it: its bytes stand at `from_offset` or behind, or nowhere."""

    retry_id: int
    topic: str
    partition: int
    from_offset: int
    is_over: bool
    """Whether it began so long ago that nothing of it is under way any more."""


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


def begin_retry(
    connection: Connection[Any], lane: int, seq: int, *, retried_by: str, topic: str, partition: int, from_offset: int
) -> int:
    """Put on record that a quarantined row is about to be sent again; returns the retry's number."""
    values = {"lane": lane, "seq": seq, "retried_by": retried_by, "topic": topic, "partition": partition}
    rows = connection.execute(SQL["begin_retry"], {**values, "from_offset": from_offset}).fetchall()
    return int(rows[0][0])


def confirm_retry(connection: Connection[Any], retry_id: int, source_offset: int | None) -> None:
    """Put on record where the bytes of a retry stand; None where they did not go out."""
    connection.execute(SQL["confirm_retry"], {"retry_id": retry_id, "source_offset": source_offset})


def unconfirmed_retries(connection: Connection[Any]) -> list[Unconfirmed]:
    """Retries that were cut off before Kafka's word was on record, or are under way."""
    return connection.cursor(row_factory=class_row(Unconfirmed)).execute(SQL["unconfirmed_retries"]).fetchall()


# ------------------------------------------------------------------------------------------------ what is operated


def agent_positions(connection: Connection[Any]) -> list[AgentPosition]:
    """Where posting, reconciliation and audit stand, by their own stores."""
    return connection.cursor(row_factory=class_row(AgentPosition)).execute(SQL["agent_positions"]).fetchall()


def rewind_reconciliation(connection: Connection[Any], lanes: Sequence[int], done_by: str) -> list[int]:
    """Have reconciliation read these lanes from their beginning; returns those that it had met. Kept on record."""
    rows = connection.execute(SQL["rewind_reconciliation"], {"lanes": list(lanes), "done_by": done_by}).fetchall()
    return sorted(rows[0][0])


def intake(connection: Connection[Any]) -> Intake:
    """Whether the API takes new intents in."""
    rows = connection.cursor(row_factory=class_row(Intake)).execute(SQL["intake"]).fetchall()
    return rows[0]


def change_intake(
    connection: Connection[Any], closed_because: str | None, done_by: str, *, lanes: int | None = None
) -> None:
    """Close the intake with a sentence for clients, or open it with None; `lanes`, if given, is remembered with it.

    API processes follow with the next intent that they are asked for. Kept on record, in one transaction.
    """
    kind = OperationKind.INTAKE_OPENED if closed_because is None else OperationKind.INTAKE_CLOSED
    with connection.transaction():
        connection.execute(SQL["change_intake"], {"closed_because": closed_because, "lanes": lanes})
        add_operation(connection, kind, done_by, {} if closed_because is None else {"because": closed_because})


def add_operation(connection: Connection[Any], kind: OperationKind, done_by: str, detail: Mapping[str, Any]) -> None:
    """Put on record what an operator does."""
    values = {"done_by": done_by, "operation": kind.value, "detail": Jsonb(dict(detail))}
    connection.execute(SQL["add_operation"], values)


def operations(connection: Connection[Any], limit: int) -> list[Operation]:
    """What operators did, the last first."""
    return connection.cursor(row_factory=class_row(Operation)).execute(SQL["operations"], {"limit": limit}).fetchall()


def try_lane_lock(connection: Connection[Any]) -> bool:
    """Whether this session may change the lanes; no other may until it ends."""
    return bool(connection.execute(SQL["try_lane_lock"]).fetchall()[0][0])
