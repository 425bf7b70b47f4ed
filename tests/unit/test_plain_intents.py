"""The fast reader of intents gives the same intent as fastavro, or none."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.intents import Intent, intent_id_of
from producers.encoding import encoder, parsed_schema
from producers.intents import record_of
from streams.decode import intent_of
from streams.plain_intents import Unusual, plain_intent
from tests.posting_bench import intent, leg

SUBJECT = "payments.intents-value"
SCHEMA = parsed_schema(SUBJECT)
ENCODE = encoder(SUBJECT, 7)
BODY = 5
RECORD = intent("key", [leg("external:bank", "debit", 700), leg("users:1", "credit", 700)])
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
LONGS = st.integers(-(2**63), 2**63 - 1)

RECORDS = st.builds(
    lambda **changes: {**RECORD, **changes},
    tenant=TEXTS,
    idempotency_key=TEXTS,
    type=st.sampled_from(("unknown", "transfer", "reversal")),
    legs=st.lists(st.builds(leg, TEXTS, st.sampled_from(("unknown", "debit", "credit")), LONGS, TEXTS), max_size=130),
    reverses=st.none() | st.just(str(intent_id_of("default", "other"))),
    value_time=st.none() | LONGS,
    reference=st.none() | TEXTS,
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=70),
    accepted_time=LONGS,
)


def by_fastavro(value: bytes) -> Intent | None:
    """Return the intent that fastavro reads from all the bytes, or None if it reads none."""
    body = io.BytesIO(value[BODY:])
    try:
        found = intent_of(fastavro.schemaless_reader(body, SCHEMA, None))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - hostile bytes may raise anything
        return None
    return found if body.tell() == len(value) - BODY else None


def plainly(value: bytes) -> Intent | None:
    """Return the intent from the fast reader, or None if it leaves the bytes to fastavro."""
    try:
        return plain_intent(value, BODY)
    except (Unusual, IndexError, KeyError, ValueError):
        return None


@given(RECORDS)
@settings(deadline=None)
def test_whatever_an_encoder_writes_is_read(record: dict[str, Any]) -> None:
    assert plain_intent(ENCODE(record), BODY) == intent_of(record)


@given(RECORDS)
@settings(deadline=None)
def test_what_the_api_sends_is_what_is_read(record: dict[str, Any]) -> None:
    sent = intent_of(record)
    assert record_of(sent) == record
    assert plain_intent(ENCODE(record_of(sent)), BODY) == sent


@given(record=RECORDS, data=st.data())
@settings(deadline=None, max_examples=500)
def test_what_is_read_of_spoilt_bytes_is_what_fastavro_reads(record: dict[str, Any], data: st.DataObject) -> None:
    value = ENCODE(record)
    start = data.draw(st.integers(BODY, len(value)))
    end = data.draw(st.integers(start, min(start + 12, len(value))))
    put = data.draw(
        st.binary(max_size=12) | st.sampled_from((b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x02", b"\x01\x10"))
    )
    spoilt = value[:start] + put + value[end:]
    found = plainly(spoilt)
    assert found is None or found == by_fastavro(spoilt)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x04\x1aexternal", b"\x03\x40\x1aexternal"),  # a block that gives its size in bytes
        (b"\x0edefault", b"\x8e\x00default"),  # a length of 7, encoded in two bytes
    ],
)
def test_what_no_encoder_writes_has_the_same_meaning_as_by_fastavro(old: bytes, new: bytes) -> None:
    value = ENCODE(RECORD)
    assert old in value
    unusual = value.replace(old, new, 1)
    assert by_fastavro(unusual) is not None
    assert plainly(unusual) in (None, by_fastavro(unusual))


@pytest.mark.parametrize("cut", range(1, 40))
def test_bytes_that_are_cut_off_are_not_read(cut: int) -> None:
    assert plainly(ENCODE(RECORD)[:-cut]) is None
    assert plainly(ENCODE(RECORD) + b"\x00" * cut) is None
