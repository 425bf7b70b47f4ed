"""The bare limit: the same rows by COPY, and the same balance upsert, into tables without index, trigger or key."""

import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg

# As the limit was measured when the design was made.
BATCH_ROWS: Final = 1000

_TABLES: Final = """
DROP SCHEMA IF EXISTS bare CASCADE;
CREATE SCHEMA bare;
CREATE TABLE bare.journal AS SELECT * FROM ledger.journal WITH NO DATA;
CREATE TABLE bare.entry AS SELECT * FROM ledger.entry WITH NO DATA;
CREATE TABLE bare.balance (
    account_id bigint, currency text, debits_minor bigint, credits_minor bigint, PRIMARY KEY (account_id, currency)
) WITH (fillfactor = 70);
"""
_ADD: Final = """
INSERT INTO bare.balance SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
ON CONFLICT (account_id, currency) DO UPDATE SET
debits_minor = balance.debits_minor + excluded.debits_minor,
credits_minor = balance.credits_minor + excluded.credits_minor
"""
# fmt: off
_JOURNAL_TYPES: Final = [
    "int4", "int8", "text", "int8", "text", "text", "text", "text", "uuid", "text", "bytea",
    "text", "uuid", "int2", "text", "jsonb", "int8", "int8", "bytea", "bytea",
]
# fmt: on
_ENTRY_TYPES: Final = ["int4", "int8", "int2", "int8", "int2", "int8", "text"]


class BareLimit:
    """The bare tables in the ledger's own database, and a clock around what goes into them."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with psycopg.connect(dsn) as connection:
            connection.execute(_TABLES)

    def rows(self, first_seq: int, next_seq: int) -> list[tuple[list[Any], list[Any]]]:
        """The ledger's own rows of these sequence numbers of all lanes, cut into batches as posting cuts them."""
        with psycopg.connect(self._dsn) as connection:
            span = (first_seq, next_seq)
            journal = connection.execute(
                "SELECT * FROM ledger.journal WHERE seq >= %s AND seq < %s ORDER BY lane, seq", span, binary=True
            ).fetchall()
            entries = connection.execute(
                "SELECT * FROM ledger.entry WHERE seq >= %s AND seq < %s ORDER BY lane, seq, leg", span, binary=True
            ).fetchall()
        legs_per_row = len(entries) // len(journal)
        return [
            (journal[at : at + BATCH_ROWS], entries[at * legs_per_row : (at + BATCH_ROWS) * legs_per_row])
            for at in range(0, len(journal), BATCH_ROWS)
        ]

    def seconds(self, batches: Sequence[tuple[list[Any], list[Any]]]) -> float:
        """How long the rows take, each batch in a transaction of its own."""
        with psycopg.connect(self._dsn) as connection:
            started = time.monotonic()
            for journal, entries in batches:
                cursor = connection.cursor()
                with cursor.copy("COPY bare.journal FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(_JOURNAL_TYPES)
                    for row in journal:
                        copy.write_row(row)
                with cursor.copy("COPY bare.entry FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(_ENTRY_TYPES)
                    for row in entries:
                        copy.write_row(row)
                cursor.execute(_ADD, _balance_changes(entries))
                connection.commit()
            return time.monotonic() - started


def _balance_changes(entries: Sequence[Any]) -> list[list[Any]]:
    sums: dict[tuple[int, str], list[int]] = {}
    for _, _, _, account_id, direction, amount_minor, currency in entries:
        sums.setdefault((account_id, currency), [0, 0])[direction < 0] += amount_minor
    ordered = sorted(sums.items())
    return [
        [account_id for (account_id, _), _ in ordered],
        [currency for (_, currency), _ in ordered],
        [debits for _, (debits, _) in ordered],
        [credits for _, (_, credits) in ordered],
    ]
