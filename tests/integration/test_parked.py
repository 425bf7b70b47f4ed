"""`db.parked`: what an operator sees of parked work and may do with it, as the operator's role."""

from typing import Any

import psycopg
import pytest

from db.migrate import migrate
from db.operations import list_operations, open_operator
from db.parked import drop_parked, list_parked, retry_parked

PARK = """
INSERT INTO worker.parked (
    part, topic, partition, message_offset, capability, task, tenant, subject, message_value, message_headers, reason,
    attempts, parked_time, due_time
) VALUES ('reactions', 'transaction.events', 0, %s, %s, 'Happened', 'default', 's', '', '[]', 'broken', 1, 1, 9e15)
"""


@pytest.fixture
def parked(database: str) -> str:
    """Return a database with two pieces of parked work of `notes` and one of `loans`."""
    migrate(database)
    with psycopg.connect(database, autocommit=True) as owner:
        for place, capability in enumerate(("notes", "notes", "loans")):
            owner.execute(PARK, (place, capability))
    return database


def due(dsn: str) -> dict[str, int]:
    with open_operator(dsn) as connection:
        return {f"{row.capability} {row.message_offset}": row.due_time for row in list_parked(connection)}


def operations(dsn: str) -> list[tuple[str, Any]]:
    with open_operator(dsn) as connection:
        rows = list_operations(connection, 10)
    return [(row.operation, row.detail) for row in rows if row.operation.startswith("parked_")]


def test_parked_work_is_listed_in_order_and_by_pages(parked: str) -> None:
    with open_operator(parked) as connection:
        first = list_parked(connection, rows_max=2)
        rest = list_parked(connection, after=first[-1].place)
        assert [(row.capability, row.message_offset, row.reason) for row in first + rest] == [
            ("notes", 0, "broken"), ("notes", 1, "broken"), ("loans", 2, "broken"),
        ]  # fmt: skip
        assert [row.message_offset for row in list_parked(connection, capability="loans")] == [2]


def test_a_retry_makes_only_what_was_named_due_and_is_recorded(parked: str) -> None:
    with open_operator(parked) as connection:
        assert len(retry_parked(connection, "ada", capability="notes")) == 2
    later = {name for name, time in due(parked).items() if time >= 9e15}
    assert later == {"loans 2"}
    assert operations(parked) == [("parked_retried", {"place": None, "capability": "notes", "number": 2})]


def test_dropped_work_is_gone_and_recorded_once(parked: str) -> None:
    with open_operator(parked) as connection:
        place = list_parked(connection)[0].place
        dropped = drop_parked(connection, "ada", place)
        assert dropped is not None
        assert drop_parked(connection, "ada", place) is None
        assert place not in {row.place for row in list_parked(connection)}
    assert [(name, detail["place"]) for name, detail in operations(parked)] == [("parked_dropped", place)]
