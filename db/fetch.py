"""Reads over a pool of connections, for processes that answer while Postgres comes and goes."""

from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from db.bounded_connection import PostgresSilent
from db.connections import TRANSIENT, explain_errors

Pool = AsyncConnectionPool[Any]


async def fetch(pool: Pool, query: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all rows of a query. If its pooled connection was dead, replace it and send the query, a read, again."""
    with explain_errors("Postgres cannot be reached or does not answer in time."):
        try:
            return await _fetch(pool, query, values)
        except (PoolTimeout, PostgresSilent, psycopg.errors.QueryCanceled):
            raise  # pool.check() would wait again, for each of the pool's connections
        except TRANSIENT as lost:
            await pool.check()
            try:
                return await _fetch(pool, query, values)
            except PoolTimeout:
                raise lost from None  # the pool is empty because its connections were lost, not because all are in use


async def _fetch(pool: Pool, query: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        cursor = await connection.cursor(row_factory=dict_row).execute(query, values)
        rows: list[dict[str, Any]] = await cursor.fetchall()
        return rows
