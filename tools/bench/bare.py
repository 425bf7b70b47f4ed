"""The bare limit: the same rows by COPY and the same balance upsert, into tables without triggers.

Only bare.balance has an index: its primary key, which the upsert needs.
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psutil
import psycopg

# The batch size with which the limit was measured for the design.
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
_JOURNAL: Final = "SELECT * FROM ledger.journal WHERE lane = %s AND seq >= %s AND seq < %s ORDER BY seq"
_ENTRIES: Final = """
SELECT * FROM ledger.entry
WHERE lane = %s AND ledger.leg_place(seq, leg) >= ledger.leg_place(%s, 0)
    AND ledger.leg_place(seq, leg) < ledger.leg_place(%s, 0)
ORDER BY ledger.leg_place(seq, leg)
"""
_TYPES: Final = """
SELECT attname, atttypid::integer
FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""
_ADD: Final = """
INSERT INTO bare.balance SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
ON CONFLICT (account_id, currency) DO UPDATE SET
debits_minor = balance.debits_minor + excluded.debits_minor,
credits_minor = balance.credits_minor + excluded.credits_minor
"""


class BareBatch(NamedTuple):
    """The rows that one transaction writes."""

    journal: Sequence[Any]
    entries: Sequence[Any]


class BareRun(NamedTuple):
    """The time to write the rows of some intents, and the processor time that client and Postgres used for it."""

    intents: int
    seconds: float
    processor_seconds: dict[str, float]

    @property
    def per_second(self) -> float:
        """Intents a second."""
        return self.intents / self.seconds


class BareLimit:
    """The bare tables in the ledger's own database, and the measurement of writing into them."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with psycopg.connect(dsn) as connection:
            connection.execute(_TABLES)
            self._journal_types = _types(connection, "bare.journal")
            self._entry_types = _types(connection, "bare.entry")

    def measure(self, first_seqs: Mapping[int, int], next_seqs: Mapping[int, int]) -> BareRun:
        """Write the ledger's own rows of these spans of the lanes again, into the bare tables, and measure it."""
        return self._write(self._batches(first_seqs, next_seqs))

    def _batches(self, first_seqs: Mapping[int, int], next_seqs: Mapping[int, int]) -> list[BareBatch]:
        """Return the rows in batches of BATCH_ROWS."""
        journal: list[Any] = []
        entries: list[Any] = []
        with psycopg.connect(self._dsn) as connection:
            for lane in sorted(next_seqs):
                span = (lane, first_seqs.get(lane, 0), next_seqs[lane])
                journal += connection.execute(_JOURNAL, span, binary=True)
                entries += connection.execute(_ENTRIES, span, binary=True)
        legs = len(entries) // len(journal)
        return [
            BareBatch(journal[at : at + BATCH_ROWS], entries[at * legs : (at + BATCH_ROWS) * legs])
            for at in range(0, len(journal), BATCH_ROWS)
        ]

    def _write(self, batches: Sequence[BareBatch]) -> BareRun:
        """Write each batch in its own transaction."""
        with psycopg.connect(self._dsn) as connection, _rows_left_to_themselves():
            backend_before = _backend_seconds(connection)
            client_before = time.process_time()
            started = time.monotonic()
            for batch in batches:
                cursor = connection.cursor()
                with cursor.copy("COPY bare.journal FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(list(self._journal_types.values()))
                    for row in batch.journal:
                        copy.write_row(row)
                with cursor.copy("COPY bare.entry FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(list(self._entry_types.values()))
                    for row in batch.entries:
                        copy.write_row(row)
                cursor.execute(_ADD, self._balance_changes(batch.entries))
                connection.commit()
            seconds = time.monotonic() - started
            used = {
                "client": time.process_time() - client_before,
                "postgres": _backend_seconds(connection) - backend_before,
            }
        return BareRun(sum(len(batch.journal) for batch in batches), seconds, used)

    def _balance_changes(self, entries: Sequence[Any]) -> list[list[Any]]:
        columns = list(self._entry_types)
        account, side, amount, unit = (
            columns.index(name) for name in ("account_id", "direction", "amount_minor", "currency")
        )
        sums: dict[tuple[int, str], list[int]] = {}
        for row in entries:
            sums.setdefault((row[account], row[unit]), [0, 0])[row[side] < 0] += row[amount]
        ordered = sorted(sums.items())
        return [
            [account_id for (account_id, _), _ in ordered],
            [currency for (_, currency), _ in ordered],
            [debits for _, (debits, _) in ordered],
            [credits for _, (_, credits) in ordered],
        ]


@contextmanager
def _rows_left_to_themselves() -> Iterator[None]:
    """Exclude all existing objects from garbage collection: the collector would walk over all rows during a run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _types(connection: psycopg.Connection[Any], table: str) -> dict[str, int]:
    """Return the columns of a table in order, each with the OID of its type."""
    return {str(name): int(number) for name, number in connection.execute(_TYPES, (table,))}


def _backend_seconds(connection: psycopg.Connection[Any]) -> float:
    """Return the processor seconds that the connection's backend has used; 0 if Postgres is on another machine."""
    try:
        process = psutil.Process(connection.info.backend_pid)
        if not process.name().startswith("postgres"):
            return 0.0
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
