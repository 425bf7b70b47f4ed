"""Schedules in Postgres: the API's side in one tenant, and the worker's side over all tenants."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from db.connections import Transaction, explain_errors
from db.fetch import Pool
from db.outbox import EncodedEvent, append_async
from db.queries import load
from domain.schedules.states import Occurrence, Schedule, Step

SQL: Final = load("schedules")
_LAST_ID: Final = UUID(int=2**128 - 1)


def _make_schedule(row: dict[str, Any]) -> Schedule:
    return Schedule(**{name: row[name] for name in Schedule._fields})


def _make_values(schedule: Schedule) -> dict[str, Any]:
    return schedule._asdict() | {"intent": Jsonb(schedule.intent), "due_time": schedule.due_time}


class TenantSchedules:
    """The schedules of one tenant in one transaction of the API."""

    def __init__(self, connection: AsyncConnection[Any], tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    async def _ask(self, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        cursor = self._connection.cursor(row_factory=dict_row)
        await cursor.execute(SQL[name], {"tenant": self._tenant, **values})
        return await cursor.fetchall()

    async def add(self, schedule: Schedule, request_hash: bytes) -> bool:
        """Add a schedule; return whether it is new."""
        values = _make_values(schedule) | {"request_hash": request_hash}
        return (await self._connection.execute(SQL["insert"], values)).rowcount == 1

    async def find(self, schedule_id: UUID, *, lock: bool = False) -> tuple[Schedule, bytes] | None:
        """Return a schedule and the hash of the request that made it; lock it until the commit if asked."""
        query = "lock" if lock else "find"
        rows = await self._ask(query, {"schedule_id": schedule_id})
        return (_make_schedule(rows[0]), bytes(rows[0]["request_hash"])) if rows else None

    async def list_page(
        self, state: str | None, due_before: int | None, after: tuple[int, str], rows_max: int
    ) -> list[Schedule]:
        """Return schedules, the newest first, that come after a (created time, id)."""
        after_time, after_id = after
        values = {
            "state": state, "due_before": due_before, "after_time": after_time,
            "after_id": UUID(after_id) if after_id else _LAST_ID, "rows_max": rows_max,
        }  # fmt: skip
        return [_make_schedule(row) for row in await self._ask("list", values)]

    async def list_occurrences(self, schedule_id: UUID, before: int, rows_max: int) -> list[Occurrence]:
        """Return occurrences with numbers below `before`, the newest first."""
        values = {"schedule_id": schedule_id, "before": before, "rows_max": rows_max}
        return [Occurrence(**row) for row in await self._ask("occurrences", values)]

    async def write(self, schedule: Schedule, encoded: Sequence[EncodedEvent]) -> None:
        """Write a locked schedule's changed fields and the events of the change. It is the last call."""
        await self._connection.execute(SQL["update"], _make_values(schedule))
        await append_async(self._connection, encoded)

    async def append(self, encoded: Sequence[EncodedEvent]) -> None:
        """Append the events of a new schedule. It is the last call."""
        await append_async(self._connection, encoded)


@asynccontextmanager
async def open_tenant(pool: Pool, tenant: str) -> AsyncIterator[TenantSchedules]:
    """Yield the schedules of a tenant inside one transaction. Raise DatabaseError if Postgres is unreachable."""
    with explain_errors("Postgres cannot be reached or does not answer in time."):
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(SQL["tenant"], {"tenant": tenant})
            yield TenantSchedules(connection, tenant)


def claim(transaction: Transaction, now: int, items_max: int) -> list[Schedule]:
    """Return due schedules of all tenants, locked."""
    cursor = transaction.cursor(row_factory=dict_row)
    return [_make_schedule(row) for row in cursor.execute(SQL["claim"], {"now": now, "items_max": items_max})]


def lock(transaction: Transaction, tenant: str, schedule_id: UUID) -> Schedule | None:
    """Return one schedule, locked."""
    cursor = transaction.cursor(row_factory=dict_row)
    row = cursor.execute(SQL["lock"], {"tenant": tenant, "schedule_id": schedule_id}).fetchone()
    return None if row is None else _make_schedule(row)


def write_steps(transaction: Connection[Any], steps: Sequence[Step]) -> None:
    """Write what the clock or outcomes changed: schedules and their occurrences, in two statements."""
    schedules = [step.schedule for step in steps]
    transaction.execute(
        SQL["move"],
        {
            "tenants": [item.tenant for item in schedules],
            "schedule_ids": [item.schedule_id for item in schedules],
            "versions": [item.version for item in schedules],
            "states": [item.state for item in schedules],
            "numbers": [item.number for item in schedules],
            "locals": [item.local for item in schedules],
            "occurrence_times": [item.occurrence_time for item in schedules],
            "attempts": [item.attempt for item in schedules],
            "flights": [item.is_in_flight for item in schedules],
            "not_befores": [item.not_before for item in schedules],
            "changed_times": [item.changed_time for item in schedules],
            "end_reasons": [item.end_reason for item in schedules],
            "due_times": [item.due_time for item in schedules],
        },
    )
    noted = [(step.schedule, found) for step in steps for found in step.occurrences]
    transaction.execute(
        SQL["note"],
        {
            "tenants": [schedule.tenant for schedule, _ in noted],
            "schedule_ids": [schedule.schedule_id for schedule, _ in noted],
            "numbers": [found.number for _, found in noted],
            "versions": [schedule.version for schedule, _ in noted],
            "locals": [found.local for _, found in noted],
            "occurrence_times": [found.occurrence_time for _, found in noted],
            "states": [found.state for _, found in noted],
            "attempts": [found.attempts for _, found in noted],
            "intent_ids": [found.intent_id for _, found in noted],
            "reasons": [found.reason for _, found in noted],
            "details": [found.detail for _, found in noted],
            "next_attempt_times": [found.next_attempt_time for _, found in noted],
            "changed_times": [found.changed_time for _, found in noted],
        },
    )


def defer(transaction: Transaction, schedule: Schedule, until: int, reason: str) -> None:
    """Keep a schedule from being due before `until`, with the reason for people."""
    values = {"tenant": schedule.tenant, "schedule_id": schedule.schedule_id, "until": until, "reason": reason}
    transaction.execute(SQL["defer"], values)
