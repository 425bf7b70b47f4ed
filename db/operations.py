"""The operators' queries: lanes, outcomes, breaks, and the quarantine with its retries.

Every function takes a connection of the role ledgerline_operator. The role reads everything and never writes posted
rows. It opens and closes the intake, rewinds reconciliation, and records what operators did. Times are microseconds
since 1970-01-01 UTC.
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

from db.agent_connection import open_snapshot
from db.connections import DatabaseError, connect
from db.queries import load

SQL: Final = load("operations")
ROLE: Final = "ledgerline_operator"


class LaneProgress(NamedTuple):
    """A lane's position in Postgres. A prover's numbers are None if that prover has not read from the lane yet.

    The counts by outcome are reconciliation's.
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
    """The number of records that reconciliation still waits for although later records have arrived."""


class BreakCount(NamedTuple):
    """The number of breaks of one kind in one state, by the agent that found them."""

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
    """An agent's position in a lane of its topic, from the agent's own tables."""

    agent: str
    lane: int
    next_offset: int
    next_seq: int


class Intake(NamedTuple):
    """The state of the intake: whether the API accepts new intents."""

    closed_because: str | None
    """The reason that clients are told; None while the intake is open."""
    lanes: int | None
    """The minimum number of lanes; None if no lanes were ever added."""


class OperationKind(StrEnum):
    """The kinds of operations that are recorded; docs/CLI.md documents each."""

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
    PARKED_RETRIED = "parked_retried"
    PARKED_DROPPED = "parked_dropped"
    CHART_ADDED = "chart_added"
    CHART_CHANGED = "chart_changed"
    CHART_REMOVED = "chart_removed"


class Operation(NamedTuple):
    """One thing that an operator did."""

    operation_id: int
    done_time: datetime
    done_by: str
    """The user of the operating system who ran the command."""
    login: str
    """The Postgres login."""
    operation: str
    detail: dict[str, Any]


class Which(StrEnum):
    """A filter of quarantined rows. The last two leave out rows that are the result of a retry."""

    ALL = "all"
    UNTRIED = "untried"
    """Rows without a retry that Kafka confirmed."""
    UNSETTLED = "unsettled"
    """Rows without a retry, or with retries of which none ended in another outcome than quarantined."""


class Place(NamedTuple):
    """A place in the list of quarantined rows, which is in the order of booking."""

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
    """The number of retries that Kafka confirmed."""
    unconfirmed: int
    """The number of retries that were begun and have no recorded result; they may have been cut off."""
    retry_of_lane: int | None
    """With `retry_of_seq`, the row that this row is a retry of; None if it is not a retry."""
    retry_of_seq: int | None

    @property
    def place(self) -> Place:
        """Return the row's place in the list."""
        return Place(self.booked_time, self.lane, self.seq)


class QuarantinedBytes(NamedTuple):
    """A quarantined journal row with the exact bytes of its message on the topic."""

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
    """One retry of quarantined bytes. `seq`, `outcome` and `reason` are None until the journal has the retry's row."""

    retry_id: int
    retried_time: datetime
    retried_by: str
    topic: str
    partition: int
    source_offset: int | None
    """None if the bytes did not go out, or if that is not known."""
    confirmed_time: datetime | None
    """None if the retry is in flight or was cut off."""
    seq: int | None
    outcome: str | None
    reason: str | None


class Unconfirmed(NamedTuple):
    """A retry without a recorded result. Its bytes are at `from_offset` or a later offset, or not on the topic."""

    retry_id: int
    topic: str
    partition: int
    from_offset: int
    is_over: bool
    """True if the retry began so long ago that nothing of it can be in flight any more."""


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Turn errors that an operator can fix into a DatabaseError that says how."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        cause = str(error).splitlines()[0]
        raise DatabaseError(f"The database is not prepared ({cause}): run `ledgerline prepare`.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        cause = str(error).splitlines()[0]
        raise DatabaseError(f"This login may not do that ({cause}): grant it the role {ROLE}.") from error


@contextmanager
def open_operator(dsn: str) -> Iterator[Connection[Any]]:
    """Open an autocommit connection that may write; raise DatabaseError if Postgres is unreachable or not prepared."""
    with _explain_errors(), connect(dsn, ROLE, autocommit=True) as connection:
        yield connection


@contextmanager
def open_glance(dsn: str) -> Iterator[Connection[Any]]:
    """Open a connection that reads one snapshot; raise DatabaseError if Postgres is unreachable or not prepared."""
    with _explain_errors(), open_snapshot(dsn, ROLE) as connection:
        yield connection


def list_lane_progress(connection: Connection[Any]) -> list[LaneProgress]:
    """Return every lane of the ledger, in order."""
    return connection.cursor(row_factory=class_row(LaneProgress)).execute(SQL["lanes"]).fetchall()


def count_outcomes(connection: Connection[Any]) -> dict[str, int]:
    """Return the number of journal rows by outcome. An outcome without rows is 0 or left out."""
    return dict(connection.execute(SQL["outcomes"]).fetchall())


def count_breaks(connection: Connection[Any]) -> list[BreakCount]:
    """Return the numbers of unresolved breaks by finder, kind and state."""
    return connection.cursor(row_factory=class_row(BreakCount)).execute(SQL["breaks"]).fetchall()


def find_last_checkpoint(connection: Connection[Any]) -> Checkpoint | None:
    """Return the last checkpoint that audit signed, or None before the first."""
    return connection.cursor(row_factory=class_row(Checkpoint)).execute(SQL["checkpoint"]).fetchone()


def list_quarantined_rows(
    connection: Connection[Any],
    *,
    after: Place = LIST_START,
    limit: int = 100,
    reason: str | None = None,
    which: Which = Which.ALL,
) -> list[QuarantinedRow]:
    """Return up to `limit` quarantined rows after a place, the oldest first."""
    asked = {
        "after_time": after.booked_time,
        "after_lane": after.lane,
        "after_seq": after.seq,
        "limit": limit,
        "reason": reason,
        "which": which.value,
    }
    return connection.cursor(row_factory=class_row(QuarantinedRow)).execute(SQL["quarantined"], asked).fetchall()


def count_quarantined(connection: Connection[Any], *, reason: str | None = None, which: Which = Which.ALL) -> int:
    """Return the number of quarantined rows."""
    rows = connection.execute(SQL["quarantined_count"], {"reason": reason, "which": which.value}).fetchall()
    return int(rows[0][0])


def find_quarantined_bytes(connection: Connection[Any], lane: int, seq: int) -> QuarantinedBytes | None:
    """Return one quarantined row with its bytes, or None if (lane, seq) is no such row."""
    cursor = connection.cursor(row_factory=dict_row)
    row = cursor.execute(SQL["quarantined_bytes"], {"lane": lane, "seq": seq}).fetchone()
    if row is None:
        return None
    headers = [(name, None if value is None else bytes.fromhex(value)) for name, value in row["headers"]]
    return QuarantinedBytes(**{**row, "headers": headers})


def list_retries(connection: Connection[Any], lane: int, seq: int) -> list[Retry]:
    """Return the retries of a quarantined row, the oldest first."""
    cursor = connection.cursor(row_factory=class_row(Retry))
    return cursor.execute(SQL["retries"], {"lane": lane, "seq": seq}).fetchall()


def begin_retry(
    connection: Connection[Any], lane: int, seq: int, *, retried_by: str, topic: str, partition: int, from_offset: int
) -> int:
    """Record that a quarantined row is about to be sent again, and return the retry's id."""
    values = {"lane": lane, "seq": seq, "retried_by": retried_by, "topic": topic, "partition": partition}
    rows = connection.execute(SQL["begin_retry"], {**values, "from_offset": from_offset}).fetchall()
    return int(rows[0][0])


def confirm_retry(connection: Connection[Any], retry_id: int, source_offset: int | None) -> None:
    """Record the offset of a retry's bytes; None if they did not go out."""
    connection.execute(SQL["confirm_retry"], {"retry_id": retry_id, "source_offset": source_offset})


def list_unconfirmed_retries(connection: Connection[Any]) -> list[Unconfirmed]:
    """Return the retries without a recorded result: they are in flight, or were cut off before Kafka's answer."""
    return connection.cursor(row_factory=class_row(Unconfirmed)).execute(SQL["unconfirmed_retries"]).fetchall()


# ------------------------------------------------------------------------------------------------ operations


def list_agent_positions(connection: Connection[Any]) -> list[AgentPosition]:
    """Return the positions of posting, reconciliation and audit, from their own tables."""
    return connection.cursor(row_factory=class_row(AgentPosition)).execute(SQL["agent_positions"]).fetchall()


def rewind_reconciliation(connection: Connection[Any], lanes: Sequence[int], done_by: str) -> list[int]:
    """Make reconciliation read these lanes from their beginning, and record that; return the lanes that it had read."""
    rows = connection.execute(SQL["rewind_reconciliation"], {"lanes": list(lanes), "done_by": done_by}).fetchall()
    return sorted(rows[0][0])


def read_intake(connection: Connection[Any]) -> Intake:
    """Return the state of the intake."""
    rows = connection.cursor(row_factory=class_row(Intake)).execute(SQL["intake"]).fetchall()
    return rows[0]


def change_intake(
    connection: Connection[Any], closed_because: str | None, done_by: str, *, lanes: int | None = None
) -> None:
    """Close the intake with a sentence for clients, or open it with None; store `lanes` if given.

    An API process notices the change at its next intent. The operation is recorded in the same transaction.
    """
    kind = OperationKind.INTAKE_OPENED if closed_because is None else OperationKind.INTAKE_CLOSED
    with connection.transaction():
        connection.execute(SQL["change_intake"], {"closed_because": closed_because, "lanes": lanes})
        add_operation(connection, kind, done_by, {} if closed_because is None else {"because": closed_because})


def add_operation(connection: Connection[Any], kind: OperationKind, done_by: str, detail: Mapping[str, Any]) -> None:
    """Record what an operator did."""
    values = {"done_by": done_by, "operation": kind.value, "detail": Jsonb(dict(detail))}
    connection.execute(SQL["add_operation"], values)


def list_operations(connection: Connection[Any], limit: int) -> list[Operation]:
    """Return the last `limit` operations, the latest first."""
    return connection.cursor(row_factory=class_row(Operation)).execute(SQL["operations"], {"limit": limit}).fetchall()


def try_lane_lock(connection: Connection[Any]) -> bool:
    """Try to lock the lanes for changes until this session ends; return whether that worked."""
    return bool(connection.execute(SQL["try_lane_lock"]).fetchall()[0][0])
