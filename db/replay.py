"""The queries of a replay. It connects as the login that owns the tables, as a migration does."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import psycopg
from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from db.binary import COPY_HEADER, COPY_TRAILER, ENTRY, ENTRY_FIELDS, LENGTH
from db.connections import DatabaseError
from db.posting import JOURNAL_TYPES
from db.posting import SQL as POSTING_SQL
from db.queries import load
from domain.errors import LedgerlineError
from domain.intents import DIRECTIONS
from domain.signed_heads import SignedHead
from runtime.release import VERSION

SQL: Final = load("replay")

WALK_ROWS: Final = 50_000
SEGMENT_ROWS: Final = 10_000

_NULL: Final = LENGTH.pack(-1)
_PLACE: Final = struct.Struct(">h ii iq")
_BIGINT: Final = struct.Struct(">iq")
_SMALLINT: Final = struct.Struct(">ih")
_HASH_LENGTH: Final = LENGTH.pack(32)
_UUID_LENGTH: Final = LENGTH.pack(16)
_KEPT_TEXTS_MAX: Final = 10_000

Record = dict[str, Any]
"""A JournalRecord in the form of the topic."""


class TargetError(LedgerlineError):
    """The target database cannot be used, or refuses the topic's records."""


class LoadedLane(NamedTuple):
    """A lane's progress in a load; `journal_offset` is the next offset to read from its partition of ledger.journal."""

    lane: int
    journal_offset: int
    source_topic: str
    first_offset: int
    next_seq: int
    head: bytes
    booked_time: int


class LaneMoved(Exception):
    """Another process moved the lane: read its position again."""


def connect_owner(dsn: str, *, synchronous: bool = True) -> Connection[Any]:
    """Open an autocommit connection as the login itself, not as a role; raise DatabaseError if Postgres is down.

    Without `synchronous`, a crash of the server may lose the last commits. They are lost in order, so a replay can
    repeat them.
    """
    level = "on" if synchronous else "off"
    options = f"-c synchronous_commit={level} -c timezone=UTC -c maintenance_work_mem=256MB"
    try:
        return psycopg.connect(
            dsn, autocommit=True, options=options, application_name=f"ledgerline_replay {VERSION}", connect_timeout=10
        )
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached to replay: {str(error).strip().splitlines()[-1]}") from error


def lock_target(connection: Connection[Any]) -> None:
    """Lock the database for this session; raise TargetError if another replay has it or the login is not the owner."""
    if not _read_one(connection, "lock"):
        raise TargetError("Another replay is at work on this database: wait for it to end.")
    if not _read_one(connection, "is_owner"):
        raise TargetError("A replay drops and makes indexes: give it a login that owns the ledger's tables.")


def is_loading(connection: Connection[Any]) -> bool:
    """Return whether a load was begun and not ended."""
    return bool(_read_one(connection, "is_loading"))


def is_empty(connection: Connection[Any]) -> bool:
    """Return whether nothing was ever posted here."""
    return bool(_read_one(connection, "is_empty"))


def _read_one(connection: Connection[Any], name: str) -> Any:
    row = connection.execute(SQL[name]).fetchone()
    assert row is not None  # noqa: S101 - each of these queries has one row
    return row[0]


# ------------------------------------------------------------------------------------------------ a load


def begin_load(connection: Connection[Any], lanes: Iterable[int]) -> None:
    """Drop keys, indexes and triggers that slow a load down, record them, and insert the lanes at their beginnings.

    A repeated call changes nothing.
    """
    with connection.transaction():
        if not is_loading(connection):
            found = connection.execute(SQL["droppable"], {}).fetchall()
            for step, (relation, dropping, restoring) in enumerate(found):
                values = {"step": step, "relation": relation, "restoring_statement": restoring}
                connection.execute(SQL["add_dropped"], values)
                connection.execute(dropping)
        for lane in lanes:
            connection.execute(SQL["make_lane"], {"lane": lane})


def read_loaded_lanes(connection: Connection[Any]) -> dict[int, LoadedLane]:
    """Return the progress of each lane."""
    rows = connection.cursor(row_factory=class_row(LoadedLane)).execute(SQL["lanes"])
    return {row.lane: row for row in rows}


def load_chunk(
    connection: Connection[Any], chunk: "Chunk", before: dict[int, int], after: Sequence[LoadedLane]
) -> None:
    """Write a chunk and move its lanes, in one transaction.

    Raise LaneMoved if the lanes' next seqs are not `before`. Raise TargetError if a row breaks a rule of the tables.
    """
    try:
        with connection.transaction():
            stand = dict(connection.execute(SQL["lock_lanes"], {"lanes": list(before)}).fetchall())
            if stand != before:
                raise LaneMoved
            cursor = connection.cursor()
            with cursor.copy(POSTING_SQL["copy_journal"]) as copy:
                copy.write(chunk.make_journal_stream())
            with cursor.copy(POSTING_SQL["copy_entries"]) as copy:
                copy.write(chunk.make_entry_stream())
            add_signed_heads(connection, chunk.signed)
            for lane in after:
                connection.execute(SQL["move_lane"], lane._asdict())
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _make_refused(error) from error


def add_signed_heads(connection: Connection[Any], heads: Iterable[SignedHead]) -> None:
    """Store posting's signed heads."""
    connection.cursor().executemany(SQL["add_signed_head"], [head._asdict() for head in heads])


def get_signed_head(record: Mapping[str, Any]) -> SignedHead | None:
    """Return the topic's signed head of the range that ends with this record; None if no signed range ends here."""
    first_seq, signature = record["signed_from"], record["signature"]
    if first_seq is None or signature is None:
        return None
    return SignedHead(record["lane"], first_seq, record["seq"] + 1, signature)


def list_dropped(connection: Connection[Any]) -> dict[str, list[tuple[int, str]]]:
    """Return relation -> (step, statement) for all that must be restored, in order; the relation `triggers` is last."""
    found: dict[str, list[tuple[int, str]]] = {}
    for step, relation, statement in connection.execute(SQL["dropped"]):
        found.setdefault(relation, []).append((step, statement))
    return found


def restore(connection: Connection[Any], step: int, statement: str) -> None:
    """Restore a dropped key or index, and delete its record; raise TargetError if the rows do not allow it."""
    try:
        with connection.transaction():
            connection.execute(statement.encode())
            connection.execute(SQL["restored"], {"step": step})
    except psycopg.IntegrityError as error:
        raise _make_refused(error) from error


def analyze(connection: Connection[Any]) -> None:
    """Update the planner's statistics after the load."""
    connection.execute(SQL["analyze"])


def end_load(connection: Connection[Any], triggers: Sequence[tuple[int, str]], topic_id: str) -> Iterable[int]:
    """Sum up the balances, restore the triggers, and move the lanes to their ends in steps, in one transaction.

    After each step, yield an upper bound of the rows that the lanes moved over. The trigger lane_advances counts the
    rows and legs of each step.
    """
    with connection.transaction():
        connection.execute(SQL["sum_up"])
        for step, statement in triggers:
            connection.execute(statement.encode())
            connection.execute(SQL["restored"], {"step": step})
        connection.execute(SQL["begin_lanes"], {"topic_id": topic_id})
        while moved := connection.execute(SQL["walk_lanes"], {"rows": WALK_ROWS}).fetchall():
            yield WALK_ROWS * len(moved)
        connection.execute(SQL["end_load"])


def _make_refused(error: psycopg.Error) -> TargetError:
    cause = str(error).strip().splitlines()[0]
    return TargetError(f"The database refuses what ledger.journal says ({cause}): see `ledgerline audit verify`.")


class Chunk:
    """Rows of one or more lanes, in COPY's binary format (PostgreSQL documentation, "COPY", File Formats)."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._entries: list[bytes] = []
        self.signed: list[SignedHead] = []
        """Posting's signed heads of ranges that end in these rows."""

    def __len__(self) -> int:
        return len(self._rows)

    def make_journal_stream(self) -> bytes:
        """Return the journal rows as one complete COPY stream."""
        return b"".join([COPY_HEADER, *self._rows, COPY_TRAILER])

    def make_entry_stream(self) -> bytes:
        """Return the entries as one complete COPY stream."""
        return b"".join([COPY_HEADER, *self._entries, COPY_TRAILER])

    def add(self, record: Record, account_ids: Mapping[tuple[str, str], int]) -> None:
        """Add a record's journal row and its entries. `account_ids` is keyed by tenant and address."""
        self._add_row(record)
        if (head := get_signed_head(record)) is not None:
            self.signed.append(head)
        lane, seq, tenant, pack = record["lane"], record["seq"], record["tenant"] or "", ENTRY.pack
        for number, leg in enumerate(record["legs"]):
            account_id, code = account_ids[tenant, leg["account"]], leg["currency"].encode()
            direction, amount_minor = DIRECTIONS[leg["direction"]], leg["amount_minor"]
            self._entries.append(
                pack(ENTRY_FIELDS, 4, lane, 8, seq, 2, number, 8, account_id, 2, direction, 8, amount_minor, len(code))
                + code
            )

    def _add_row(self, record: Record) -> None:
        kept, reverses, metadata, value_time = (
            _encode_kept_text,
            record["reverses"],
            record["metadata"],
            record["value_time"],
        )
        self._rows.append(
            b"".join(
                (
                    _PLACE.pack(len(JOURNAL_TYPES), 4, record["lane"], 8, record["seq"]),
                    kept(record["outcome"]),
                    kept(record["reason"]),
                    kept(record["detail"]),
                    kept(record["tenant"]),
                    _encode_uuid(record["intent_id"]),
                    _encode_text(record["idempotency_key"]),
                    _encode_bytes(record["fingerprint"]),
                    kept(record["type"]),
                    _NULL if reverses is None else _encode_uuid(reverses),
                    _encode_text(record["reference"]),
                    _NULL if value_time is None else _BIGINT.pack(8, value_time),
                    _BIGINT.pack(8, record["booked_time"]),
                    _HASH_LENGTH,
                    record["hash"],
                    _SMALLINT.pack(2, len(record["legs"])),
                    _encode_json(metadata) if metadata else _NULL,
                )
            )
        )


def _encode_bytes(value: bytes) -> bytes:
    return LENGTH.pack(len(value)) + value


def _encode_text(value: str | None) -> bytes:
    return _NULL if value is None else _encode_bytes(value.encode())


def _encode_json(value: dict[str, str]) -> bytes:
    return _encode_bytes(b"\x01" + orjson.dumps(value))  # the version of jsonb's binary format, then the text


def _encode_uuid(text: str | None) -> bytes:
    return _NULL if text is None else _UUID_LENGTH + bytes.fromhex(text.replace("-", ""))


_texts: dict[str | None, bytes] = {}


def _encode_kept_text(value: str | None) -> bytes:
    """Return the encoded text from a cache, for texts that repeat."""
    found = _texts.get(value)
    if found is None:
        if len(_texts) >= _KEPT_TEXTS_MAX:
            _texts.clear()
        found = _texts[value] = _encode_text(value)
    return found


# ------------------------------------------------------------------------------------------------ quarantine and hashes


def add_quarantine(
    connection: Connection[Any],
    lane: int,
    seq: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, str | None]],
) -> None:
    """Store the raw bytes behind a quarantined row if they are not stored yet; header values in hex."""
    values = {"lane": lane, "seq": seq, "key": key, "value": value, "headers": Jsonb(headers)}
    connection.execute(SQL["add_quarantine"], values)


def fill_quarantine_without_bytes(connection: Connection[Any]) -> int:
    """Store empty bytes for the quarantined rows that have none, because theirs are lost; return how many there are."""
    return int(_read_one(connection, "quarantine_without_bytes"))


def find_hash_at(connection: Connection[Any], lane: int, seq: int) -> bytes | None:
    """Return the hash of one journal row, or None if there is no such row."""
    row = connection.execute(POSTING_SQL["row_hash"], {"lane": lane, "seq": seq}).fetchone()
    return None if row is None else bytes(row[0])


def copy_hashes(connection: Connection[Any], lane: int, first_seq: int, next_seq: int) -> None:
    """Copy the hashes of seq first_seq to next_seq - 1 into audit's tables."""
    values = {"lane": lane, "first_seq": first_seq, "next_seq": next_seq, "rows": SEGMENT_ROWS}
    connection.execute(SQL["copy_hashes"], values)
