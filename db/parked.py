"""Parked work of the worker, as an operator sees it: list it, let it be tried at once, drop it."""

from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.operations import OperationKind, add_operation
from db.queries import load

SQL: Final = load("parked")


class Parked(NamedTuple):
    """One piece of parked work. Times are microseconds since 1970."""

    place: int
    part: str
    capability: str
    tenant: str
    subject: str
    """Work of one subject is done in order, so later work waits for earlier work."""
    task: str
    topic: str
    partition: int
    message_offset: int
    reason: str
    """Why the last attempt failed; empty if the work only waits for earlier work of its subject."""
    attempts: int
    parked_time: int
    due_time: int


def list_parked(
    connection: Connection[Any], *, after: int = 0, rows_max: int = 100, capability: str | None = None
) -> list[Parked]:
    """Return parked work after a place, in the order of parking; of one capability if it is given."""
    asked = {"after": after, "rows_max": rows_max, "capability": capability}
    return connection.cursor(row_factory=class_row(Parked)).execute(SQL["parked"], asked).fetchall()


def retry_parked(
    connection: Connection[Any], done_by: str, *, place: int | None = None, capability: str | None = None
) -> list[int]:
    """Let one place, one capability's work, or all work be tried at once; record that, and return the places."""
    asked = {"place": place, "capability": capability}
    with connection.transaction():
        places = sorted(row[0] for row in connection.execute(SQL["retry_parked"], asked).fetchall())
        if places:
            detail = {"place": place, "capability": capability, "number": len(places)}
            add_operation(connection, OperationKind.PARKED_RETRIED, done_by, detail)
    return places


def drop_parked(connection: Connection[Any], done_by: str, place: int) -> Parked | None:
    """Delete one piece of parked work for ever and record that; return what it was, or None if it is not there."""
    with connection.transaction():
        row = connection.cursor(row_factory=class_row(Parked)).execute(SQL["drop_parked"], {"place": place}).fetchone()
        if row is not None:
            add_operation(connection, OperationKind.PARKED_DROPPED, done_by, row._asdict())
    return row
