"""The API's queries of webhooks. Each runs in a transaction that sees one tenant (row-level security)."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from db.connections import explain_errors
from db.fetch import Pool
from db.queries import load
from domain.webhooks import ENDPOINTS_MAX, Message

SQL: Final = load("webhooks")
Row = dict[str, Any]
Answer = TypeVar("Answer")
PLACE_MAX: Final = 2**63 - 1


class Asked(NamedTuple):
    """Which deliveries to replay. Times are microseconds since 1970."""

    delivery_id: UUID | None = None
    since: int | None = None
    until: int | None = None
    state: str | None = None


async def run_in_tenant(pool: Pool, tenant: str, work: Callable[[AsyncConnection[Any]], Awaitable[Answer]]) -> Answer:
    """Return what `work` does in a transaction that sees the tenant. Raise DatabaseError if Postgres is unreachable."""
    with explain_errors("Postgres cannot be reached or does not answer in time."):
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(SQL["set_tenant"], {"tenant": tenant})
            return await work(connection)


async def _fetch(connection: AsyncConnection[Any], name: str, values: Row) -> list[Row]:
    cursor = await connection.cursor(row_factory=dict_row).execute(SQL[name], values)
    return await cursor.fetchall()


async def _find(connection: AsyncConnection[Any], name: str, values: Row) -> Row | None:
    rows = await _fetch(connection, name, values)
    return rows[0] if rows else None


async def add_endpoint(pool: Pool, tenant: str, values: Row) -> tuple[Row | None, bool]:
    """Return the new endpoint and True, or the one that its key made before and False; None if there are too many."""

    async def add(connection: AsyncConnection[Any]) -> tuple[Row | None, bool]:
        asked = {**values, "tenant": tenant, "endpoints_max": ENDPOINTS_MAX}
        made = await _find(connection, "add_endpoint", asked)
        return (made, True) if made is not None else (await _find(connection, "endpoint_of_key", asked), False)

    return await run_in_tenant(pool, tenant, add)


async def find_one(pool: Pool, tenant: str, name: str, **values: Any) -> Row | None:
    """Return the only row of a named query; None if there is none."""
    return await run_in_tenant(pool, tenant, lambda connection: _find(connection, name, {**values, "tenant": tenant}))


async def find_all(pool: Pool, tenant: str, name: str, **values: Any) -> list[Row]:
    """Return the rows of a named query."""
    return await run_in_tenant(pool, tenant, lambda connection: _fetch(connection, name, {**values, "tenant": tenant}))


async def find_delivery(pool: Pool, tenant: str, endpoint_id: UUID, delivery_id: UUID) -> Row | None:
    """Return a delivery with its attempts; None if there is none."""
    asked = {"tenant": tenant, "endpoint_id": endpoint_id, "delivery_id": delivery_id}

    async def find(connection: AsyncConnection[Any]) -> Row | None:
        found = await _find(connection, "delivery", asked)
        return None if found is None else {**found, "made": await _fetch(connection, "attempts", asked)}

    return await run_in_tenant(pool, tenant, find)


async def replay(pool: Pool, tenant: str, endpoint_id: UUID, asked: Asked, series: str, now: int, rows_max: int) -> Row:
    """Begin a new series of attempts, named by its idempotency key; return how many deliveries it has, and one of them.

    `number` is more than `rows_max`, and nothing is replayed, if the period has more deliveries than that.
    """
    values = {"tenant": tenant, "endpoint_id": endpoint_id, "series": series, "now": now, **asked._asdict()}

    async def begin(connection: AsyncConnection[Any]) -> Row:
        if asked.delivery_id is None:
            counted = await _find(connection, "count_period", {**values, "rows_max": rows_max + 1})
            if counted is not None and counted["number"] > rows_max:
                return {**counted, "delivery_id": None}
        await connection.execute(SQL["replay"], {**values, "rows_max": rows_max})
        found = await _find(connection, "count_series", values)
        assert found is not None  # noqa: S101 - an aggregate without GROUP BY has one row
        return found

    return await run_in_tenant(pool, tenant, begin)


async def send_test(pool: Pool, endpoint_id: UUID, delivery_id: UUID, message: Message, now: int) -> None:
    """Store a test message and its delivery, each once."""

    async def send(connection: AsyncConnection[Any]) -> None:
        await connection.execute(
            SQL["add_messages"],
            {
                "tenants": [message.tenant], "message_ids": [message.message_id], "types": [message.type],
                "orderings": [message.ordering], "bodies": [message.body],
                "occurred_times": [message.occurred_time], "now": now,
            },
        )  # fmt: skip
        await connection.execute(
            SQL["add_deliveries"],
            {
                "tenants": [message.tenant], "delivery_ids": [delivery_id], "endpoint_ids": [endpoint_id],
                "message_ids": [message.message_id], "series": [""], "orderings": [message.ordering],
                "ordered": [False], "now": now, "next_time": now,
            },
        )  # fmt: skip

    await run_in_tenant(pool, message.tenant, send)
