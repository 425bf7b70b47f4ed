"""Decoding hostile bytes gives an intent or a reason from the closed list, and never another exception."""

import io
import struct
from collections.abc import Callable
from copy import copy
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.intents import Intent, Leg, compute_intent_id, make_intent, parse_intent_id
from domain.outcomes import QuarantineReason
from producers.encoding import make_encoder
from producers.intents import make_record
from runtime.avro_codec import REFUSALS, Codec
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import parse_own_schema
from streams.decode import DETAIL_CHARACTERS_MAX, IntentDecoder, Undecodable
from tests.posting_bench import intent, leg

SUBJECT = "payments.intents-value"
SCHEMA_ID = 7
ENCODE = make_encoder(SUBJECT, SCHEMA_ID)
RECORD = intent("key", [leg("external:bank", "debit", 700), leg("users:1", "credit", 700)])


@pytest.fixture
def decoder() -> IntentDecoder:
    """Return a decoder that knows the project's schema by its id and has no registry for other ids."""
    return knowing_decoder()


def knowing_decoder() -> IntentDecoder:
    made = IntentDecoder(SchemaRegistry("http://127.0.0.1:9/"))
    made._schemas[SCHEMA_ID] = (parse_own_schema(SUBJECT), None)
    return made


def reason_of(decoder: IntentDecoder, value: bytes | None) -> QuarantineReason:
    with pytest.raises(Undecodable) as caught:
        decoder.decode(value)
    assert 0 < len(str(caught.value)) <= DETAIL_CHARACTERS_MAX
    assert str(caught.value).isascii()
    return caught.value.reason


def test_an_intent_comes_out_as_it_went_in(decoder: IntentDecoder) -> None:
    record = {**RECORD, "reference": "\N{MONEY BAG}", "metadata": {"a": "\x00"}, "value_time": -5}
    assert decoder.decode(ENCODE(record)) == Intent(
        compute_intent_id("default", "key"),
        "default",
        "key",
        "transfer",
        (Leg("external:bank", 1, 700, "EUR"), Leg("users:1", -1, 700, "EUR")),
        None,
        -5,
        "\N{MONEY BAG}",
        {"a": "\x00"},
        RECORD["accepted_time"],
    )


def test_an_unknown_direction_and_type_are_kept_for_screening(decoder: IntentDecoder) -> None:
    found = decoder.decode(ENCODE({**RECORD, "type": "unknown", "legs": [leg("a", "unknown", 1)]}))
    assert (found.type, found.legs[0].direction) == ("unknown", 0)


GOOD = ENCODE(RECORD)
VALID_ID = str(compute_intent_id("default", "key")).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, QuarantineReason.EMPTY),
        (b"", QuarantineReason.EMPTY),
        (b"\x00", QuarantineReason.BAD_MAGIC),
        (b"\x00\x00\x00\x00", QuarantineReason.BAD_MAGIC),
        (b"\x01" + GOOD[1:], QuarantineReason.BAD_MAGIC),
        (b'{"intent_id": 1}', QuarantineReason.BAD_MAGIC),
        (GOOD[:5], QuarantineReason.UNDECODABLE),
        (GOOD[:-1], QuarantineReason.UNDECODABLE),
        (GOOD + b"\x00", QuarantineReason.UNDECODABLE),
        (GOOD.replace(VALID_ID, b"x" * 36), QuarantineReason.UNDECODABLE),
        (ENCODE({**RECORD, "intent_id": ""}), QuarantineReason.UNDECODABLE),
        (ENCODE({**RECORD, "reverses": "no uuid"}), QuarantineReason.UNDECODABLE),
        (GOOD.replace(b"default", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9"), QuarantineReason.UNDECODABLE),
        (GOOD.replace(b"default", b"a\xed\xa0\x80bcd"), QuarantineReason.UNDECODABLE),  # a lone surrogate
        (GOOD[:5] + b"\xff" * 20, QuarantineReason.UNDECODABLE),
        (GOOD[:5] + b"\x80" * 50, QuarantineReason.UNDECODABLE),
        # A number that goes on for a megabyte: adding up all its bits would hold the lane up for minutes.
        (GOOD[:5] + b"\xff" * 1_000_000, QuarantineReason.UNDECODABLE),
        # Texts that claim a length of 2^61, 2^62 and -1.
        (GOOD[:5] + b"\x80" * 8 + b"\x40" + GOOD[6:], QuarantineReason.UNDECODABLE),
        (GOOD[:5] + b"\x80" * 9 + b"\x01" + GOOD[6:], QuarantineReason.UNDECODABLE),
        (GOOD[:5] + b"\x01" + GOOD[6:], QuarantineReason.UNDECODABLE),
        # An array that claims to have 2^62 legs.
        (
            GOOD[: GOOD.index(b"external") - 3] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\x00" * 8,
            QuarantineReason.UNDECODABLE,
        ),
    ],
)
def test_bytes_that_are_no_intent(decoder: IntentDecoder, value: bytes | None, reason: QuarantineReason) -> None:
    assert reason_of(decoder, value) is reason


def test_fields_of_an_older_or_newer_writer_are_resolved(decoder: IntentDecoder) -> None:
    """The writer has no value_time and one extra field. The reader's defaults fill the missing fields."""
    schema: dict[str, Any] = {
        "type": "record",
        "name": "ledgerline.payments.PaymentIntent",
        "fields": [
            {"name": "intent_id", "type": "string"},
            {"name": "tenant", "type": "string"},
            {"name": "idempotency_key", "type": "string"},
            {"name": "purpose", "type": "string"},
        ],
    }
    written_with = fastavro.parse_schema(schema)
    decoder._schemas[8] = (written_with, parse_own_schema(SUBJECT))
    out = io.BytesIO()
    identity = {"intent_id": VALID_ID.decode(), "tenant": "default", "idempotency_key": "key", "purpose": "rent"}
    fastavro.schemaless_writer(out, written_with, identity)
    found = decoder.decode(struct.pack(">bI", 0, 8) + out.getvalue())
    assert (found.type, found.legs, found.value_time, found.metadata) == ("unknown", (), None, {})


def fate_of(value: bytes) -> QuarantineReason | None:
    """Return the reason for which the bytes are no intent, or None if they are an intent."""
    try:
        found = knowing_decoder().decode(value)
    except Undecodable as error:
        return error.reason
    assert isinstance(found.intent_id, UUID)
    return None


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_whatever_follows_a_known_id_is_an_intent_or_undecodable(body: bytes) -> None:
    assert fate_of(GOOD[:5] + body) in (None, QuarantineReason.UNDECODABLE)


@given(position=st.integers(5, len(GOOD) - 1), byte=st.integers(0, 255))
@settings(deadline=None)
def test_one_changed_byte_never_makes_another_exception(position: int, byte: int) -> None:
    changed = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
    assert fate_of(changed) in (None, QuarantineReason.UNDECODABLE)


@given(
    st.builds(
        lambda amount, times, text: {
            **RECORD,
            "legs": [leg(text, "debit", amount, text)],
            "value_time": times[0],
            "accepted_time": times[1],
            "reference": text,
            "metadata": {text: text},
        },
        st.integers(-(2**63), 2**63 - 1),
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    )
)
def test_any_record_survives_the_way_through_avro(record: dict[str, Any]) -> None:
    assert knowing_decoder().decode(ENCODE(record)) == make_intent(record)


# ------------------------------------------------------- the codec gives the same intent as fastavro, or none

SCHEMA = parse_own_schema(SUBJECT)
CODEC = Codec(SCHEMA)
BODY = 5
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
LONGS = st.integers(-(2**63), 2**63 - 1)

RECORDS = st.builds(
    lambda **changes: {**RECORD, **changes},
    tenant=TEXTS,
    idempotency_key=TEXTS,
    type=st.sampled_from(("unknown", "transfer", "reversal")),
    legs=st.lists(st.builds(leg, TEXTS, st.sampled_from(("unknown", "debit", "credit")), LONGS, TEXTS), max_size=130),
    reverses=st.none() | st.just(str(compute_intent_id("default", "other"))),
    value_time=st.none() | LONGS,
    reference=st.none() | TEXTS,
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=70),
    accepted_time=LONGS,
)


def by_fastavro(value: bytes) -> Intent | None:
    """Return the intent that fastavro reads from all the bytes, or None if it reads none."""
    body = io.BytesIO(value[BODY:])
    try:
        found = make_intent(fastavro.schemaless_reader(body, SCHEMA, None))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - hostile bytes may raise anything
        return None
    return found if body.tell() == len(value) - BODY else None


def plainly(value: bytes) -> Intent | None:
    """Return the intent that the codec reads, or None if the codec leaves the bytes to fastavro."""
    try:
        return make_intent(CODEC.read(value, BODY))
    except REFUSALS:
        return None


@given(RECORDS)
@settings(deadline=None)
def test_whatever_an_encoder_writes_is_read(record: dict[str, Any]) -> None:
    assert make_intent(CODEC.read(ENCODE(record), BODY)) == make_intent(record)


@given(RECORDS)
@settings(deadline=None)
def test_what_the_api_sends_is_what_is_read(record: dict[str, Any]) -> None:
    sent = make_intent(record)
    assert make_record(sent) == record
    assert make_intent(CODEC.read(ENCODE(make_record(sent)), BODY)) == sent


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


def parse_or_refuse(parse: Callable[[str], UUID], text: str) -> tuple[Any, ...]:
    """Return all that a UUID has, or the sentence of the refusal."""
    try:
        made = parse(text)
    except ValueError as error:
        return (str(error),)
    return made.int, made.is_safe, made.version, hash(made), str(made), copy(made)


@given(
    st.uuids().map(str)
    | st.uuids().map(lambda made: made.hex)
    | st.text("0123456789abcdefABCDEF-_+ {}urn:xg\N{ARABIC-INDIC DIGIT ONE}", min_size=30, max_size=45)
    | st.uuids().map(lambda made: f"urn:uuid:{made}")
    | st.uuids().map(lambda made: f"{{{made}}}")
    | st.text(max_size=40)
)
@example("0x" + "1" * 30)
@example("urn:" + "1" * 28)
@example("{" + "1" * 30 + "}")
@example("+" + "1" * 31)
@example("1_" * 15 + "11")
@example("-" * 9 + "f" * 32)
def test_an_id_is_read_as_by_uuid(text: str) -> None:
    assert parse_or_refuse(parse_intent_id, text) == parse_or_refuse(UUID, text)
