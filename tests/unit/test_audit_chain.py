"""Audit computes the same hashes as the rfc8785 package and as posting, and names each broken record or row."""

from hashlib import sha256
from typing import Any, cast
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from db.audit import LaneRow
from domain.fingerprint import compute_fingerprint
from domain.hash_chain import chain_row
from domain.intents import Leg
from domain.journal import JournalRow
from domain.merkle import compute_root
from domain.outcomes import Outcome
from domain.stored_records import StoredLeg, StoredRow
from streams.proof.audit.chain import ABSENT, LaneChain, repeat_finding
from streams.proof.audit.stored import find_window_faults
from streams.proof.records.canonical import (
    compute_intent_fingerprint,
    compute_record_hash,
    make_record_json,
    make_record_members,
)
from streams.proof.records.decoding import JournalRecord

GENESIS = bytes(32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True)
legs = st.lists(
    st.builds(
        Leg,
        account=texts,
        direction=st.sampled_from([1, -1]),
        amount_minor=st.integers(1, 2**63 - 1),
        currency=st.sampled_from(["EUR", "USD"]),
    ),
    max_size=4,
).map(tuple)
rows = st.builds(
    JournalRow,
    lane=st.integers(0, 1000),
    seq=st.integers(0, 2**50),
    source_topic=texts,
    source_offset=st.integers(0, 2**50),
    outcome=st.sampled_from(Outcome),
    reason=texts,
    detail=texts,
    tenant=st.none() | texts,
    intent_id=st.none() | st.uuids(),
    idempotency_key=st.none() | texts,
    fingerprint=st.binary(min_size=32, max_size=32),
    type=st.none() | texts,
    reverses=st.none() | st.uuids(),
    legs=legs,
    reference=st.none() | texts,
    metadata=st.dictionaries(keys, texts, max_size=5),
    value_time=st.none() | st.integers(-(2**52), 2**52),
    booked_time=st.integers(0, 2**52),
    previous_hash=st.just(b""),
    hash=st.just(b""),
)


def avro(row: JournalRow) -> JournalRecord:
    """Return a journal row in its form on the topic."""
    directions = {1: "debit", -1: "credit"}
    record = {
        **row._asdict(),
        "outcome": row.outcome.value,
        "intent_id": None if row.intent_id is None else str(row.intent_id),
        "reverses": None if row.reverses is None else str(row.reverses),
        "legs": [{**leg._asdict(), "direction": directions[leg.direction]} for leg in row.legs],
        "signed_from": None,
        "signature": None,
    }
    return cast("JournalRecord", record)


@given(rows, st.binary(min_size=32, max_size=32))
def test_hashes_are_those_of_the_rfc_and_of_the_poster(row: JournalRow, previous_hash: bytes) -> None:
    posted = chain_row(previous_hash, row)
    record = avro(posted)
    assert make_record_json(record) == rfc8785.dumps(make_record_members(record))
    assert compute_record_hash(previous_hash, record) == posted.hash


@given(
    legs,
    st.none() | st.uuids(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    texts,
    st.dictionaries(keys | texts, texts, max_size=5),
)
def test_fingerprints_are_those_of_the_poster(
    asked: tuple[Leg, ...], reverses: UUID | None, value_time: int | None, reference: str, metadata: dict[str, str]
) -> None:
    directions = {1: "debit", -1: "credit"}
    intent: Any = {
        "type": "transfer",
        "legs": [{**leg._asdict(), "direction": directions[leg.direction]} for leg in asked],
        "reverses": None if reverses is None else str(reverses).upper(),
        "value_time": value_time,
        "reference": reference,
        "metadata": metadata,
    }
    wanted = compute_fingerprint("transfer", asked, reverses, value_time, reference, metadata)
    assert compute_intent_fingerprint(intent) == wanted


def test_metadata_keys_beyond_ascii_sort_as_the_rfc_says() -> None:
    """In UTF-16 code units a surrogate pair sorts before U+FB33, in UTF-8 bytes after it (RFC 8785, 3.2.3)."""
    record = avro(posted_chain()[0])
    record["metadata"] = {"דּ": "1", "😀": "2"}
    assert make_record_json(record) == rfc8785.dumps(make_record_members(record))


def posted_chain(count: int = 6) -> list[JournalRow]:
    made = []
    previous = GENESIS
    for seq in range(count):
        row = JournalRow(
            *(3, seq, "payments.intents", 100 + seq, Outcome.POSTED, "", "", "default", UUID(int=seq), f"key-{seq}"),
            *(bytes(32), "transfer", None, (Leg("a", 1, 5, "EUR"), Leg("b", -1, 5, "EUR")), None, {}, 1, 2, b"", b""),
        )
        made.append(chain_row(previous, row))
        previous = made[-1].hash
    return made


def taken(records: list[JournalRecord]) -> LaneChain:
    chain = LaneChain(LaneRow(3, 0, 0, GENESIS, 0, b""))
    for record in records:
        chain.take(record)
    return chain


def named(chain: LaneChain) -> list[int | None]:
    return sorted({finding.seq for finding in chain.findings}, key=str)


def test_a_sound_chain_is_kept_whole() -> None:
    chain = posted_chain()
    found = taken([avro(row) for row in chain])
    assert found.findings == []
    segment = found.make_segment()
    assert segment is not None
    assert segment.hashes == b"".join(row.hash for row in chain)
    row = found.row(17)
    assert (row.next_offset, row.next_seq, row.head) == (17, 6, chain[-1].hash)
    assert len(row.peaks) == 64
    assert compute_root([link.hash for link in chain]) == compute_root(
        segment.hashes[at : at + 32] for at in range(0, 192, 32)
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reference": "x"}, [2]),
        ({"booked_time": 3}, [2]),
        ({"legs": []}, [2]),
        # Audit keeps the altered hash as it came, so the next record does not follow from it either.
        ({"hash": b"h" * 32}, [2, 3]),
        ({"previous_hash": b"p" * 32}, [2]),
    ],
)
def test_a_record_that_was_altered_is_named(changes: dict[str, Any], expected: list[int]) -> None:
    records = [avro(row) for row in posted_chain()]
    records[2] = cast("JournalRecord", {**records[2], **changes})
    assert named(taken(records)) == expected


def test_a_hole_is_named_record_by_record_and_kept_as_far_as_it_is_known() -> None:
    chain = posted_chain()
    found = taken([avro(row) for row in chain if row.seq not in (2, 3)])
    assert named(found) == [2, 3]
    segment = found.make_segment()
    assert segment is not None
    assert segment.hashes[64:96] == ABSENT
    assert segment.hashes[96:128] == chain[3].hash


def test_repeats_are_compared() -> None:
    chain = posted_chain()
    record = avro(chain[1])
    assert repeat_finding(record, chain[1].hash, is_missing=False) is None
    late = repeat_finding(record, ABSENT, is_missing=True)
    assert late is not None
    assert late.state == "explained"
    other = cast("JournalRecord", {**record, "reference": "x"})
    assert repeat_finding(other, chain[1].hash, is_missing=False) is not None


def stored(chain: list[JournalRow]) -> tuple[list[StoredRow], list[StoredLeg]]:
    names = {1: "debit", -1: "credit"}
    found_rows = [
        StoredRow(
            *(row.seq, row.source_topic, row.source_offset, row.outcome.value, row.reason, row.detail, row.tenant),
            *(str(row.intent_id), row.idempotency_key, row.fingerprint, row.type, None, len(row.legs), row.reference),
            *(None, row.value_time, row.booked_time, row.previous_hash, row.hash),
        )
        for row in chain
    ]
    found_legs = [
        StoredLeg(row.seq, leg.account, names[leg.direction], str(leg.amount_minor), leg.currency)
        for row in chain
        for leg in row.legs
    ]
    return found_rows, found_legs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"detail": "x"}, [3]),
        ({"hash": b"h" * 32}, [3]),
        # Here `previous_hash` says that the row before has another hash: audit names that row, not this one.
        ({"previous_hash": b"p" * 32}, []),
        ({"leg_count": 9}, [3]),
        ({"metadata": {"a": "b"}}, [3]),
        ({"source_offset": 1}, [3]),
    ],
)
def test_just_the_altered_row_is_named(changes: dict[str, Any], expected: list[int]) -> None:
    chain = posted_chain()
    found_rows, found_legs = stored(chain)
    found_rows[3] = found_rows[3]._replace(**changes)
    kept = b"".join(row.hash for row in chain)
    assert [seq for seq, _ in find_window_faults(3, 0, found_rows, found_legs, kept, GENESIS)] == expected
    tail = list(find_window_faults(3, 2, found_rows[2:], found_legs, kept[64:], chain[1].hash))
    assert [seq for seq, _ in tail] == expected


def test_deleted_rows_and_altered_entries_are_named() -> None:
    chain = posted_chain()
    found_rows, found_legs = stored(chain)
    kept = b"".join(row.hash for row in chain)
    del found_rows[5], found_rows[1]
    found_legs[0] = found_legs[0]._replace(amount_minor="6")
    assert [seq for seq, _ in find_window_faults(3, 0, found_rows, found_legs, kept, GENESIS)] == [0, 1, 5]


def test_the_hash_covers_the_previous_one() -> None:
    first, second = posted_chain(2)
    assert second.hash == sha256(first.hash + make_record_json(avro(second))).digest()
