"""The provers read each record as fastavro reads it, and say in one sentence why bytes are no record."""

import pytest

from domain.outcomes import QuarantineReason
from domain.topics import SUBJECTS
from producers.encoding import make_encoder
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import parse_own_schema
from streams.proof.records.decoding import RecordReader, Unreadable
from tests.posting_bench import intent, leg

SCHEMA_ID = 7
INTENTS = "payments.intents-value"
RECORD = intent("key", [leg("external:bank", "debit", 700), leg("users:1", "credit", 700)])
GOOD = make_encoder(INTENTS, SCHEMA_ID)(RECORD)


def reader_of(subject: str) -> RecordReader:
    """Return a reader that knows the project's schema by its id and has no registry for other ids."""
    made = RecordReader(SchemaRegistry("http://127.0.0.1:9/"), subject)
    made._schemas[SCHEMA_ID] = (parse_own_schema(subject), None)
    return made


def test_an_intent_is_read() -> None:
    assert reader_of(INTENTS).read(GOOD) == RECORD


def test_a_journal_record_is_read() -> None:
    subject = "ledger.journal-value"
    record = {field["name"]: field["default"] for field in parse_own_schema(subject)["fields"]}
    record |= {"previous_hash": b"\x00" * 32, "hash": b"\x01" * 32, "fingerprint": b"", "legs": RECORD["legs"] * 40}
    assert reader_of(subject).read(make_encoder(subject, SCHEMA_ID)(record)) == record


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_intents_alone_are_read_without_the_codec_of_posting(subject: str) -> None:
    """If the codec misread an amount, posting would post it: the provers must not misread it likewise (decision 28)."""
    assert (reader_of(subject)._codec is None) == (subject == INTENTS)


@pytest.mark.parametrize(
    ("value", "reason", "sentence"),
    [
        (None, QuarantineReason.EMPTY, "There are no bytes."),
        (b"", QuarantineReason.EMPTY, "There are no bytes."),
        (b"\x00\x00\x00\x00", QuarantineReason.BAD_MAGIC, "The bytes do not begin with zero and a schema id."),
        (b"\x01" + GOOD[1:], QuarantineReason.BAD_MAGIC, "The bytes do not begin with zero and a schema id."),
        (GOOD + b"\x00", QuarantineReason.UNDECODABLE, "There are bytes past the end of the record."),
        (GOOD[:-1], QuarantineReason.UNDECODABLE, "The bytes do not decode by schema 7: IndexError."),
        (GOOD[:5] + b"\x80" * 50, QuarantineReason.UNDECODABLE, "The bytes do not decode by schema 7: IndexError."),
        (
            GOOD.replace(b"default", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9"),
            QuarantineReason.UNDECODABLE,
            "The bytes do not decode by schema 7: UnicodeDecodeError.",
        ),
    ],
)
def test_bytes_that_are_no_record(value: bytes | None, reason: QuarantineReason, sentence: str) -> None:
    with pytest.raises(Unreadable) as caught:
        reader_of(INTENTS).read(value)
    assert (caught.value.reason, str(caught.value)) == (reason, sentence)
