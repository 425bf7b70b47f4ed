"""Audit's queries: its own append-only schema, and read-only queries of the ledger."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.breaks import BreakStore
from db.proving import LaneStore
from db.queries import load
from domain.checkpoints import CheckpointRow, LaneHead
from domain.signed_heads import SignedHead
from domain.stored_records import StoredLeg, StoredRow

SQL: Final = load("audit")
ROLE: Final = "ledgerline_audit"
BREAKS: Final = BreakStore("audit")

HASH_BYTES: Final = 32


class LaneRow(NamedTuple):
    """Audit's position in a lane. `peaks` are those of the tree over the hashes from first_seq to next_seq - 1."""

    lane: int
    next_offset: int
    next_seq: int
    head: bytes
    first_seq: int
    peaks: bytes
    signatures_first_seq: int | None = None
    """The seq from which on posting's signatures must cover each record; None if they are not required yet."""
    signatures_next_seq: int | None = None
    """The seq up to which audit has judged the signatures."""


LANES: Final = LaneStore(SQL, LaneRow)


class Segment(NamedTuple):
    """The joined hashes of consecutive records, 32 bytes each; zeros for a record that the topic did not bring."""

    lane: int
    first_seq: int
    next_seq: int
    head: bytes
    hashes: bytes


# ------------------------------------------------------------------------------------------------ own copy


def lock_all_lanes(connection: Connection[Any]) -> list[LaneRow]:
    """Lock every lane in order and return all of them, so that a checkpoint is one state of all lanes."""
    return connection.cursor(row_factory=class_row(LaneRow)).execute(SQL["lock_all_lanes"]).fetchall()


def add_segments(connection: Connection[Any], segments: Iterable[Segment]) -> None:
    """Store the hashes of a batch permanently."""
    connection.cursor().executemany(SQL["add_segment"], [segment._asdict() for segment in segments])


def read_hashes(connection: Connection[Any], lane: int, first_seq: int, next_seq: int) -> bytes:
    """Return audit's copy of the hashes of seq first_seq to next_seq - 1, joined; shorter if audit is not that far."""
    values = {"lane": lane, "first_seq": first_seq, "next_seq": next_seq}
    joined = []
    for segment in connection.cursor(row_factory=class_row(Segment)).execute(SQL["segments"], values):
        start = max(first_seq - segment.first_seq, 0)
        end = min(next_seq, segment.next_seq) - segment.first_seq
        joined.append(segment.hashes[start * HASH_BYTES : end * HASH_BYTES])
    return b"".join(joined)


# ------------------------------------------------------------------------------------------------ checkpoints


def lock_signer(connection: Connection[Any]) -> int | None:
    """Lock the right to sign until the transaction ends; return the next checkpoint to publish.

    Return None if another session holds the lock.
    """
    row = connection.execute(SQL["lock_signer"]).fetchone()
    return None if row is None else int(row[0])


def find_next_unpublished_checkpoint(connection: Connection[Any]) -> int:
    """Return the first checkpoint that the topic does not have, without a lock; 0 if the row is gone."""
    row = connection.execute(SQL["next_unpublished_checkpoint"]).fetchone()
    return 0 if row is None else int(row[0])


def find_last_checkpoint(connection: Connection[Any]) -> CheckpointRow | None:
    """Return the newest checkpoint, or None if there is none."""
    return connection.cursor(row_factory=class_row(CheckpointRow)).execute(SQL["last_checkpoint"]).fetchone()


def list_checkpoints(
    connection: Connection[Any], first_checkpoint: int, limit: int
) -> list[tuple[CheckpointRow, list[LaneHead]]]:
    """Return up to `limit` checkpoints from that number on, each with its lanes in order."""
    values = {"first_checkpoint": first_checkpoint, "limit": limit}
    rows = connection.cursor(row_factory=class_row(CheckpointRow)).execute(SQL["checkpoints"], values).fetchall()
    lanes: dict[int, list[LaneHead]] = {row.checkpoint: [] for row in rows}
    for row in connection.execute(SQL["checkpoint_lanes"], {"checkpoints": list(lanes)}):
        lanes[row[0]].append(LaneHead(*row[1:]))
    return [(row, lanes[row.checkpoint]) for row in rows]


def find_covering_checkpoint(connection: Connection[Any], lane: int, seq: int) -> CheckpointRow | None:
    """Return the checkpoint that covers a record, or None if none does yet."""
    cursor = connection.cursor(row_factory=class_row(CheckpointRow))
    return cursor.execute(SQL["covering_checkpoint"], {"lane": lane, "seq": seq}).fetchone()


def add_checkpoint(connection: Connection[Any], row: CheckpointRow, lanes: Sequence[LaneHead]) -> None:
    """Store a signed checkpoint permanently."""
    connection.execute(SQL["add_checkpoint"], row._asdict())
    for head in lanes:
        connection.execute(SQL["add_checkpoint_lane"], {"checkpoint": row.checkpoint, **head._asdict()})


def add_signing_key(connection: Connection[Any], key_id: str, public_key: bytes) -> None:
    """Store a public key (32 raw bytes) that signs from now on."""
    connection.execute(SQL["add_signing_key"], {"key_id": key_id, "public_key": public_key})


def list_signing_keys(connection: Connection[Any]) -> dict[str, bytes]:
    """Return key id -> raw public key, for every key that has signed."""
    return {row[0]: bytes(row[1]) for row in connection.execute(SQL["signing_keys"])}


def record_published_checkpoints(connection: Connection[Any], next_checkpoint: int) -> None:
    """Record that the topic has all checkpoints before this one."""
    connection.execute(SQL["checkpoints_published"], {"next_checkpoint": next_checkpoint})


# ------------------------------------------------------------------------------------------------ the ledger


def read_stored_rows(
    connection: Connection[Any], lane: int, first_seq: int, next_seq: int
) -> tuple[list[StoredRow], list[StoredLeg]]:
    """Return a window of a lane from the ledger's tables: journal rows in order, entries in order of row and leg."""
    values = {"lane": lane, "first_seq": first_seq, "next_seq": next_seq}
    rows = connection.execute(SQL["stored_rows"], values, binary=True).fetchall()
    legs = connection.execute(SQL["stored_legs"], values, binary=True).fetchall()
    return list(map(StoredRow._make, rows)), list(map(StoredLeg._make, legs))


def read_ledger_lanes(connection: Connection[Any]) -> dict[int, tuple[int, bytes]]:
    """Return lane -> next seq and head of the chain, from the ledger's tables."""
    return {row[0]: (row[1], bytes(row[2])) for row in connection.execute(SQL["ledger_lanes"])}


def find_signed_head_over(connection: Connection[Any], lane: int, seq: int) -> SignedHead | None:
    """Return posting's signed head of the range that contains a row; None if posting signed no such range."""
    cursor = connection.cursor(row_factory=class_row(SignedHead))
    head = cursor.execute(SQL["signed_head_over"], {"lane": lane, "seq": seq}).fetchone()
    return None if head is None or head.first_seq > seq else head


def read_stored_hashes(connection: Connection[Any], lane: int, first_seq: int, next_seq: int) -> bytes:
    """Return the ledger's hashes of a range of rows, joined."""
    values = {"lane": lane, "first_seq": first_seq, "next_seq": next_seq}
    return b"".join(row[0] for row in connection.execute(SQL["stored_hashes"], values))


def find_intent_places(
    connection: Connection[Any], intent_id: str, tenant: str | None
) -> Iterator[tuple[int, int, str]]:
    """Yield (lane, seq, tenant) of at most two rows that settled this intent; of any tenant if none is named."""
    for row in connection.execute(SQL["intent_place"], {"intent_id": intent_id, "tenant": tenant}):
        yield row[0], row[1], row[2]
