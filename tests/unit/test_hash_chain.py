"""The hash chain can be recomputed with nothing but RFC 8785 and SHA-256."""

import hashlib
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from domain.hash_chain import chain_row, make_record_json
from domain.intents import Leg, compute_intent_id
from domain.journal import GENESIS_HASH, JournalRow
from domain.outcomes import Outcome

ROW = JournalRow(
    lane=3,
    seq=17,
    source_topic="payments.intents",
    source_offset=20,
    outcome=Outcome.POSTED,
    reason="",
    detail="",
    tenant="default",
    intent_id=compute_intent_id("default", "first"),
    idempotency_key="first",
    fingerprint=bytes(range(32)),
    type="transfer",
    reverses=None,
    legs=(Leg("external:bank", 1, 700, "EUR"), Leg("users:1", -1, 700, "EUR")),
    reference="r",
    metadata={"b": "2", "a": "1"},
    value_time=5,
    booked_time=6,
    previous_hash=b"",
    hash=b"",
)


def members(row: JournalRow) -> dict[str, Any]:
    """Return all members that the hash covers, listed here independently of the code under test."""
    return {
        **{name: getattr(row, name) for name in ("lane", "seq", "source_topic", "source_offset", "reason", "detail")},
        **{name: getattr(row, name) for name in ("tenant", "idempotency_key", "type", "reference", "metadata")},
        **{name: getattr(row, name) for name in ("value_time", "booked_time")},
        "outcome": str(row.outcome),
        "intent_id": row.intent_id and str(row.intent_id),
        "reverses": row.reverses and str(row.reverses),
        "fingerprint": row.fingerprint.hex(),
        "legs": [
            {
                "account": leg.account,
                "direction": "debit" if leg.direction == 1 else "credit",
                "amount_minor": str(leg.amount_minor),
                "currency": leg.currency,
            }
            for leg in row.legs
        ],
    }


def test_a_hash_covers_the_previous_one_and_the_records_canonical_json() -> None:
    row = chain_row(GENESIS_HASH, ROW)
    assert row.previous_hash == bytes(32) == GENESIS_HASH
    assert row.hash == hashlib.sha256(bytes(32) + rfc8785.dumps(members(ROW))).digest()
    following = chain_row(row.hash, ROW._replace(seq=18))
    assert following.previous_hash == row.hash
    assert following.hash == hashlib.sha256(row.hash + rfc8785.dumps(members(ROW._replace(seq=18)))).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"lane": 4},
        {"seq": 18},
        {"source_topic": "other"},
        {"source_offset": 21},
        {"outcome": Outcome.REJECTED},
        {"reason": "unbalanced"},
        {"detail": "x"},
        {"tenant": "other"},
        {"tenant": None},
        {"intent_id": compute_intent_id("default", "second")},
        {"idempotency_key": "second"},
        {"fingerprint": bytes(32)},
        {"type": "reversal"},
        {"reverses": compute_intent_id("default", "second")},
        {"legs": ROW.legs[::-1]},
        {"legs": ()},
        {"reference": None},
        {"metadata": {"a": "1"}},
        {"value_time": None},
        {"booked_time": 7},
    ],
)
def test_every_member_is_covered(change: dict[str, Any]) -> None:
    assert chain_row(GENESIS_HASH, ROW._replace(**change)).hash != chain_row(GENESIS_HASH, ROW).hash


def test_every_column_is_hashed_or_a_hash() -> None:
    assert set(members(ROW)) == set(JournalRow._fields) - {"previous_hash", "hash"}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
numbers = st.integers(0, 2**53 - 1)


@given(
    row=st.builds(
        ROW._replace,
        detail=texts,
        tenant=st.one_of(st.none(), texts),
        idempotency_key=st.one_of(st.none(), texts),
        reference=st.one_of(st.none(), texts),
        metadata=st.dictionaries(st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True), texts, max_size=3),
        outcome=st.sampled_from(Outcome),
        seq=numbers,
        source_offset=numbers,
        booked_time=numbers,
        value_time=st.one_of(st.none(), st.integers(-(2**53) + 1, 2**53 - 1)),
        legs=st.lists(
            st.builds(Leg, texts, st.sampled_from((1, -1)), st.integers(1, 2**63 - 1), texts), max_size=3
        ).map(tuple),
        fingerprint=st.binary(min_size=32, max_size=32),
    )
)
def test_the_json_of_any_record_is_rfc_8785(row: JournalRow) -> None:
    assert make_record_json(row) == rfc8785.dumps(members(row))
