"""The disk space of a ledger, by table and by index."""

from collections.abc import Mapping
from typing import Final

import psycopg

_SIZES: Final = """
SELECT coalesce(table_of.relname, relation.relname), relation.relname, relation.relkind::text,
    pg_total_relation_size(relation.oid) - CASE relation.relkind WHEN 'i' THEN 0 ELSE pg_indexes_size(relation.oid) END
FROM pg_class AS relation
LEFT JOIN pg_index ON pg_index.indexrelid = relation.oid
LEFT JOIN pg_class AS table_of ON table_of.oid = pg_index.indrelid
WHERE relation.relnamespace = %s::regnamespace AND relation.relkind IN ('r', 'i', 'm')
ORDER BY 1, 3 DESC, 2
"""


def disk_bytes(dsn: str, schema: str) -> dict[str, int]:
    """Return the bytes of every table and index of a schema. A table includes its TOAST and maps, not its indexes."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(_SIZES, (schema,)).fetchall()
    return {name if kind != "i" else f"{table}, index {name}": size for table, name, kind, size in rows}


def wal_bytes(dsn: str) -> int:
    """Return how many bytes of write-ahead log the whole server has written since it was created."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    return int(row[0]) if row else 0


def each_of(disk: Mapping[str, int], count: int) -> dict[str, float]:
    """Return the bytes of each part divided by `count`. Leave out parts with less than a tenth of a byte."""
    each = {name: round(size / count, 1) for name, size in disk.items()}
    return {name: size for name, size in each.items() if size >= 0.1}
