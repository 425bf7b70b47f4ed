"""Restores what the lanes do not have: the raw bytes of quarantined messages, and audit's published checkpoints."""

from typing import Any

from db import audit
from db import replay as db
from domain.checkpoints import CheckpointRow, LaneHead, compute_key_id
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.audit.signing import GENESIS, find_checkpoint_faults
from streams.proof.records.decoding import RecordReader, Unreadable
from streams.proof.records.pages import read_all
from streams.proof.replay.lane_replay import ReplayRefused, find_offset, read_to_ends

Checkpoint = tuple[CheckpointRow, list[LaneHead]]


def restore_quarantine(
    connection: Any, kafka: Kafka, registry: SchemaRegistry, topic: str, lanes: list[int]
) -> tuple[int, int]:
    """Give quarantined rows their raw bytes from payments.quarantine; harmless to repeat.

    Return how many messages the topic has, and how many rows have no bytes, because retention has deleted them. Raise
    ReplayRefused if a message of the topic cannot be read.
    """
    reader = RecordReader(registry, "payments.quarantine-value")
    found = 0
    for messages in read_to_ends(kafka, topic, dict.fromkeys(lanes, 0)):
        for message in messages:
            try:
                record = reader.read(message.value())
            except Unreadable as unreadable:
                raise ReplayRefused(
                    f"Offset {message.offset()} of {topic}, partition {message.partition()}, holds no quarantined"
                    f" message ({unreadable}): restore that topic."
                ) from unreadable
            headers = [
                (header["name"], None if header["value"] is None else header["value"].hex())
                for header in record["headers"]
            ]
            db.add_quarantine(
                connection, record["lane"], record["seq"], record["key"], record["value"], headers
            )  # fmt: skip
            found += 1
    return found, db.fill_quarantine_without_bytes(connection)


def restore_checkpoints(
    connection: Any, kafka: Kafka, registry: SchemaRegistry, topic: str, journal: str, own_key: bytes | None
) -> int:
    """Give audit the published checkpoints that this database lacks, so that audit continues after the last one.

    Each checkpoint is verified, and each of its heads must be the hash of the replayed record at its place. As hashes
    are chained, that hash stands for all before it. Audit's own copy of the hashes is restored up to the end of the
    last checkpoint; from there audit reads on by itself. `own_key`: the raw public key of this home, for checkpoints
    that no remembered key signed. Return the number of restored checkpoints. Raise ReplayRefused if a checkpoint is
    missing or does not hold.
    """
    reader = RecordReader(registry, "audit.checkpoints-value")
    records = (message for _, message in read_all(kafka, topic, reader) if not isinstance(message, str))
    published = {row.checkpoint: (row, lanes) for row, lanes in map(_make_checkpoint, records)}
    with connection.transaction():
        last = audit.find_last_checkpoint(connection)
        previous: Checkpoint | None = None
        if last is not None:
            ((row, heads),) = audit.list_checkpoints(connection, last.checkpoint, 1)
            previous = (row, heads)
            if row.checkpoint in published and published[row.checkpoint] != previous:
                raise ReplayRefused(
                    f"This database has another checkpoint {row.checkpoint} than {topic}: replay into an empty one."
                )
        restored = 0
        keys = audit.list_signing_keys(connection)
        number = 0 if last is None else last.checkpoint + 1
        while number in published:
            row, heads = published[number]
            _verify(connection, row, heads, previous, _find_key(connection, keys, row, own_key))
            audit.add_checkpoint(connection, row, heads)
            previous, number, restored = (row, heads), number + 1, restored + 1
        later = [other for other in published if other > number]
        if later:
            raise ReplayRefused(
                f"{topic} has checkpoint {min(later)}, but none of number {number}: restore that topic."
            )
        if restored and previous is not None:
            _begin_behind(connection, kafka, journal, previous[1])
            audit.record_published_checkpoints(connection, number)
    return restored


def _make_checkpoint(record: dict[str, Any]) -> Checkpoint:
    heads = [LaneHead(**head) for head in record.pop("lanes")]
    return CheckpointRow(**record), sorted(heads)


def _find_key(connection: Any, keys: dict[str, bytes], row: CheckpointRow, own_key: bytes | None) -> bytes:
    if row.key_id not in keys and own_key is not None and compute_key_id(own_key) == row.key_id:
        audit.add_signing_key(connection, row.key_id, own_key)
        keys[row.key_id] = own_key
    if row.key_id not in keys:
        raise ReplayRefused(
            f"Checkpoint {row.checkpoint} was signed by the key {row.key_id}, which is not known here: give the books"
            " that have it by --books FILE, or put audit's key file into this home."
        )
    return keys[row.key_id]


def _verify(
    connection: Any,
    row: CheckpointRow,
    heads: list[LaneHead],
    previous: Checkpoint | None,
    key: bytes,
) -> None:
    faults = find_checkpoint_faults(row, heads, previous, key)
    for head in heads:
        held = db.find_hash_at(connection, head.lane, head.next_seq - 1) if head.next_seq else GENESIS
        if held != head.head:
            faults.append(f"Its head of lane {head.lane} is not that of the replayed records.")
    if faults:
        raise ReplayRefused(
            f"Checkpoint {row.checkpoint} of the topic does not hold: {faults[0]} Replay into an empty database, and"
            " see `ledgerline audit verify`."
        )


def _begin_behind(connection: Any, kafka: Kafka, journal: str, heads: list[LaneHead]) -> None:
    """Set audit to the end of the last checkpoint, with its copy of the hashes up to there, and with empty trees."""
    own = audit.LANES.lock(connection, [head.lane for head in heads])
    for head in heads:
        stands = own[head.lane]
        if stands.next_seq > head.next_seq:
            raise ReplayRefused(
                f"Audit has read lane {head.lane} on to seq {stands.next_seq} without the checkpoint that ends at"
                f" {head.next_seq}: replay into an empty database, and start audit after the replay."
            )
        db.copy_hashes(connection, head.lane, stands.next_seq, head.next_seq)
        offset = find_offset(kafka, journal, head.lane, head.next_seq - 1) + 1 if head.next_seq else 0
        moved = audit.LaneRow(head.lane, offset, head.next_seq, head.head, head.next_seq, b"")
        audit.LANES.move(connection, [moved])
