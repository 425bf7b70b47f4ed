"""The codec agrees with fastavro for all of our schemas, on hostile bytes too, or leaves them to fastavro."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.topics import SUBJECTS
from producers.encoding import make_encoder
from runtime.avro_codec import REFUSALS, Codec
from runtime.schemas import parse_own_schema

CODECS = {subject: Codec(parse_own_schema(subject)) for subject in SUBJECTS}
ENCODE = {subject: make_encoder(subject, 1) for subject in SUBJECTS}
REFUSED = "refused"

subjects = st.sampled_from(sorted(SUBJECTS))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.integers(0, 200).map("x".__mul__)
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200) | st.sampled_from([2**61 - 1, 2**62 - 1, 2**62])


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values that a schema accepts."""
    match schema:
        case "string":
            return texts
        case "bytes":
            return st.binary(max_size=100)
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return longs
        case ["null", other]:
            return st.none() | values(other)
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=4)
        case {"type": "map", "values": members}:
            return st.dictionaries(texts, values(members), max_size=4)
        case {"type": "record", "fields": fields}:
            return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in fields})
        case {"type": primitive}:
            return values(primitive)
    raise AssertionError(schema)


RECORDS = {subject: values(parse_own_schema(subject)) for subject in SUBJECTS}


def by_fastavro(subject: str, record: dict[str, Any]) -> bytes | str:
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, parse_own_schema(subject), record)
    except Exception:  # noqa: BLE001 - every exception is a refusal
        return REFUSED
    return out.getvalue()


def read_by_fastavro(subject: str, value: bytes) -> Any:
    body = io.BytesIO(value)
    try:
        record = fastavro.schemaless_reader(body, parse_own_schema(subject), None)
    except Exception:  # noqa: BLE001 - every exception is a refusal
        return REFUSED
    return record if body.tell() == len(value) else REFUSED


def check_reading(subject: str, value: bytes) -> bool:
    """Check that the codec agrees with fastavro. Return False if the codec refuses the bytes."""
    try:
        record = CODECS[subject].read(b"12345" + value, 5)
    except REFUSALS:
        return False
    assert record == read_by_fastavro(subject, value)
    return True


@given(st.data(), subjects)
def test_what_is_written_is_what_fastavro_writes(data: st.DataObject, subject: str) -> None:
    record = data.draw(RECORDS[subject])
    assert CODECS[subject].write(record) == by_fastavro(subject, record)


@given(st.data(), subjects)
def test_what_is_read_is_what_fastavro_reads(data: st.DataObject, subject: str) -> None:
    record = data.draw(RECORDS[subject])
    written = by_fastavro(subject, record)
    assert isinstance(written, bytes)
    assert read_by_fastavro(subject, written) == record
    assert check_reading(subject, written), "the codec reads whatever an encoder writes"


@given(st.data(), subjects)
def test_hostile_bytes_are_read_as_fastavro_reads_them_or_refused(data: st.DataObject, subject: str) -> None:
    """The bytes are arbitrary, or come from records that were cut, extended, changed or spliced."""
    written = by_fastavro(subject, data.draw(RECORDS[subject]))
    assert isinstance(written, bytes)
    at = data.draw(st.integers(0, len(written)))
    length = data.draw(st.integers(0, 3))
    rubbish = data.draw(
        st.binary(max_size=12) | st.sampled_from([b"\x01", b"\x80\x00", b"\x80" * 9 + b"\x01", b"\x03"])
    )
    check_reading(subject, written[:at] + rubbish + written[at + length :])
    check_reading(subject, written[:at])
    check_reading(subject, rubbish)


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_every_byte_of_a_record_may_be_another(subject: str) -> None:
    """The record has a value in every member, and each of its bytes takes all 256 values."""
    written = by_fastavro(subject, full(parse_own_schema(subject)))
    assert isinstance(written, bytes)
    assert check_reading(subject, written)
    taken = sum(
        check_reading(subject, written[:at] + bytes((byte,)) + written[at + 1 :])
        for at in range(len(written))
        for byte in range(256)
    )
    assert taken > len(written), "some other bytes are records all the same"


@pytest.mark.parametrize("subject", ["payments.intents-value", "ledger.journal-value"])
@pytest.mark.parametrize("count", [63, 64, 130, 9000])
def test_long_texts_and_long_blocks_are_plain(subject: str, count: int) -> None:
    """Lengths and counts of one, two and three bytes."""
    record = full(parse_own_schema(subject))
    record |= {"tenant": "\xe4" * count, "legs": record["legs"][:1] * count}
    record["metadata"] = {str(number): "x" * number for number in range(count)}
    written = by_fastavro(subject, record)
    assert isinstance(written, bytes)
    assert CODECS[subject].write(record, b"12345") == b"12345" + written
    assert check_reading(subject, written)


@pytest.mark.parametrize("length", [2**31, 2**61, 2**62, 2**63 - 1, -1, -(2**63)])
def test_a_text_that_claims_an_absurd_length_is_left_to_fastavro(length: int) -> None:
    number = Codec({"type": "record", "name": "Number", "fields": [{"name": "number", "type": "long"}]})
    assert not check_reading("payments.intents-value", number.write({"number": length}) + b"x" * 50)


def test_a_number_without_an_end_is_refused_at_once() -> None:
    """To add up all its bits would take time that grows with the square of its length: minutes for a megabyte."""
    assert not check_reading("payments.intents-value", b"\xff" * 10_000_000)


def full(schema: Any) -> Any:
    """Return a value of the schema in which nothing is null or empty."""
    match schema:
        case "string":
            return "äb"
        case "bytes":
            return b"\x00\xff"
        case "int" | "long":
            return 300
        case ["null", other]:
            return full(other)
        case {"type": "enum", "symbols": symbols}:
            return symbols[1]
        case {"type": "array", "items": items}:
            return [full(items)] * 2
        case {"type": "map", "values": members}:
            return {"k": full(members)}
        case {"type": "record", "fields": fields}:
            return {field["name"]: full(field["type"]) for field in fields}
        case {"type": primitive}:
            return full(primitive)
    raise AssertionError(schema)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("lane", True), ("lane", 2**31), ("lane", 1.0), ("lane", "1"), ("lane", None),
        ("seq", 2**63), ("seq", -(2**63) - 1), ("seq", True), ("seq", 2.5),
        ("value_time", True), ("value_time", 2**63), ("value_time", "1"),
        ("hash", "text"), ("hash", bytearray(3)), ("hash", memoryview(b"abc")), ("hash", None), ("hash", b"x" * 5000),
        ("outcome", "other"), ("outcome", 1), ("outcome", []), ("outcome", None),
        ("detail", b"bytes"), ("detail", None), ("detail", "\ud800"), ("detail", "x" * 5000), ("detail", 7),
        ("tenant", b"bytes"), ("tenant", 7), ("tenant", "\ud800"),
        ("legs", None), ("legs", ()), ("legs", {}), ("legs", "ab"), ("legs", [{}]), ("legs", [None]),
        ("legs", [{"account": "a", "direction": "debit", "amount_minor": 1, "currency": "EUR"}] * 5000),
        ("metadata", None), ("metadata", []), ("metadata", {"k": 1}), ("metadata", {1: "v"}), ("metadata", {"k": None}),
    ],
)  # fmt: skip
def test_an_odd_value_is_written_or_refused_as_by_fastavro(member: str, value: Any) -> None:
    subject = "ledger.journal-value"
    record = {**full(parse_own_schema(subject)), member: value}
    assert encoded(subject, record) == by_fastavro(subject, record)


@pytest.mark.parametrize("missing", ["lane", "detail", "tenant", "legs", "metadata", "outcome"])
def test_a_member_that_is_missing_has_its_default(missing: str) -> None:
    subject = "ledger.journal-value"
    record = full(parse_own_schema(subject))
    del record[missing]
    with pytest.raises(REFUSALS):
        CODECS[subject].write(record)
    assert encoded(subject, record) == by_fastavro(subject, record) != REFUSED


def encoded(subject: str, record: dict[str, Any]) -> bytes | str:
    """Return what the encoder makes of a record, without the five bytes of the frame."""
    try:
        return ENCODE[subject](record)[5:]
    except Exception:  # noqa: BLE001 - every exception is a refusal
        return REFUSED
