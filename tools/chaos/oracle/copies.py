"""Check the two copies of the journal, in the tables and on the topic: both are complete, chained and equal."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from tools.chaos.oracle.canonical import record_hash
from tools.chaos.oracle.model import NO_HASH, Findings, Kept, Plants, Raw, Record, Row, Unreadable, place_of

JOURNAL_NAME: Final = "ledgerline.ledger.JournalRecord"
QUARANTINED_NAME: Final = "ledgerline.payments.Quarantined"
# docs/OUTCOMES.md: the bytes of a larger message stay in Postgres, and the record says so.
QUARANTINED_BYTES_MAX: Final = 4 * 1024 * 1024 - 64 * 1024
NUL_SHOWN: Final = "\N{SYMBOL FOR NULL}"
_SHARED: Final = ("seq", "source_topic", "source_offset", "reason", "booked_time")


def published_records(
    lane: int,
    records: Iterable[tuple[Raw, Record | Unreadable]],
    rows: Sequence[Row],
    plants: Plants,
    findings: Findings,
) -> dict[int, Record]:
    """Return the records of a lane by sequence number. Each must be on the topic once and in order.

    To save memory, a record that equals its row is the row's own object.
    """
    in_table = {row.record.seq: row.record for row in rows}
    found: dict[int, Record] = {}
    next_seq = 0
    for raw, record in records:
        findings.counts["records"] += 1
        if isinstance(record, Unreadable):
            findings.add(
                "topic_equals_table", f"ledger.journal {lane} offset {raw.offset}", f"The record is {record.reason}."
            )
            continue
        where = place_of(lane, record.seq)
        planted = plants.at(lane, record.seq)
        if record.lane != lane and not planted:
            findings.add(
                "topic_equals_table", where, f"The record stands in partition {lane}, but is of {record.lane}."
            )
        if raw.key != (None if record.intent_id is None else record.intent_id.encode()) and not planted:
            findings.add("topic_equals_table", where, "The record's key is not its intent's id.")
        if record.seq in found:
            if not planted:
                findings.add("topic_equals_table", where, "The topic has this record more than once.")
            continue
        if record.seq < next_seq and not planted:
            findings.add("topic_equals_table", where, f"The topic has this record behind seq {next_seq - 1}.")
        row = in_table.get(record.seq)
        found[record.seq] = row if row is not None and row == record else record
        next_seq = max(next_seq, record.seq + 1)
    return found


def compare_copies(rows: Sequence[Row], published: Mapping[int, Record], plants: Plants, findings: Findings) -> None:
    """Add a fault for each row that is not on the topic unchanged, and for each record without a row."""
    seen = set()
    for row in rows:
        lane, seq = row.record.lane, row.record.seq
        seen.add(seq)
        record = published.get(seq)
        if plants.at(lane, seq) or record == row.record:
            continue
        if record is None:
            findings.add("topic_equals_table", place_of(lane, seq), "The topic lacks this record.")
            continue
        differ = [name for name in Record._fields if getattr(record, name) != getattr(row.record, name)]
        findings.add(
            "topic_equals_table", place_of(lane, seq), f"Topic and table differ in {', '.join(differ) or 'order'}."
        )
    for seq, record in published.items():
        if seq not in seen and not plants.at(record.lane, seq):
            findings.add("topic_equals_table", place_of(record.lane, seq), "The table lacks this record of the topic.")


def linked(rows: Iterable[Row], published: Mapping[int, Record]) -> list[Row]:
    """Return the rows, each with the previous hash from which its own hash was made.

    The tables do not keep the previous hash: it is the hash of the row before. If that row was altered or is missing,
    take the previous hash that the topic has, provided that the row's stated hash follows from it.
    """
    return [row._replace(record=_linked(row.record, published.get(row.record.seq))) for row in rows]


def _linked(record: Record, published: Record | None) -> Record:
    if published is None or published.previous_hash == record.previous_hash:
        return record
    other = record._replace(previous_hash=published.previous_hash)
    return other if record_hash(other) == record.hash else record


def check_chain(
    records: Iterable[Record],
    source: str,
    hashes: dict[int, tuple[Record, bytes]],
    plants: Plants,
    findings: Findings,
) -> None:
    """Check that each record hashes to its stated hash, and follows from the record before it.

    If the computed hash of a record differs from its stated hash, the next record may follow from either: this is one
    fault, not two. The link across a gap cannot be checked; another check reports the gap. `hashes` caches the computed
    hashes, as the same record of the other source has the same hash.
    """
    before: tuple[int, tuple[bytes, ...]] = (-1, (NO_HASH,))
    for record in records:
        known = hashes.get(record.seq)
        computed = known[1] if known is not None and known[0] == record else record_hash(record)
        hashes[record.seq] = (record, computed)
        if not plants.at(record.lane, record.seq):
            where = place_of(record.lane, record.seq)
            if computed != record.hash:
                findings.add("chains", where, f"By the {source}, the record does not hash to what it says.")
            if record.seq == before[0] + 1 and record.previous_hash not in before[1]:
                findings.add("chains", where, f"By the {source}, the record does not follow from the one before it.")
        before = (record.seq, (computed, record.hash))


def check_quarantine_topic(
    lane: int,
    rows: Sequence[Row],
    kept: Mapping[int, Kept],
    records: Iterable[dict[str, Any] | Unreadable],
    plants: Plants,
    findings: Findings,
) -> None:
    """Check that payments.quarantine has each quarantined row of the lane once, in order, with the table's bytes."""
    expected = {row.record.seq: row.record for row in rows if row.record.outcome == "quarantined"}
    found: list[int] = []
    for record in records:
        if isinstance(record, Unreadable):
            findings.add("quarantine", f"payments.quarantine {lane}", f"A record is {record.reason}.")
            continue
        seq = record["seq"]
        found.append(seq)
        row = expected.get(seq)
        if row is not None and seq in kept and not plants.at(lane, seq):
            wrong = [name for name in ("lane", *_SHARED) if record[name] != getattr(row, name)]
            wrong += _differing_bytes(record, row, kept[seq])
            if wrong:
                findings.add("quarantine", place_of(lane, seq), f"Topic and table differ in {', '.join(wrong)}.")
    doubled = {seq for seq, next_seq in pairwise(found) if next_seq <= seq}
    for seq in sorted(doubled | (set(found) ^ expected.keys())):
        if not plants.at(lane, seq):
            times = found.count(seq)
            what = f"payments.quarantine has the row {times} times or out of order" if times else "the topic lacks it"
            findings.add("quarantine", place_of(lane, seq), f"Of the quarantined rows, {what}.")


def _differing_bytes(record: Mapping[str, Any], row: Record, kept: Kept) -> list[str]:
    large = len(kept.value or b"") + len(kept.key or b"") > QUARANTINED_BYTES_MAX
    if large and record["value"] is None and record["detail"].startswith(row.detail):
        return []
    headers = [[header["name"], None if header["value"] is None else header["value"].hex()]
               for header in record["headers"]]  # fmt: skip
    pairs = [("detail", row.detail), ("key", kept.key), ("value", kept.value), ("headers", kept.headers)]
    return [name for name, wanted in pairs if (headers if name == "headers" else record[name]) != wanted]


def check_bytes(raw: Raw, row: Record, kept: Kept | None, findings: Findings) -> None:
    """Check that the table keeps a quarantined message byte for byte."""
    # A header's name may contain NUL, which JSON in Postgres cannot hold.
    headers = [[name.replace("\x00", NUL_SHOWN), None if value is None else value.hex()] for name, value in raw.headers]
    if kept is None or (kept.key, kept.value, kept.headers) != (raw.key, raw.value, headers):
        what = "has nothing" if kept is None else "has other bytes"
        findings.add("quarantine", place_of(row.lane, row.seq), f"ledger.quarantine {what} of the message.")
