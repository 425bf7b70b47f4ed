"""Our own writer of PaymentIntent against fastavro's, byte by byte."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.intents import CREDIT, DEBIT, Intent, Leg
from producers.encoding import encoder
from producers.intent_encoding import intent_encoder, record_of
from producers.intents import SUBJECT

# Lengths around those where one byte more is needed are likelier than they would be by chance.
texts = st.text(max_size=20) | st.integers(60, 70).map("x".__mul__) | st.integers(8190, 8194).map("ü".__mul__)
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(-70, 70) | st.integers(8190, 8194)
legs = st.builds(Leg, texts, st.sampled_from((DEBIT, CREDIT, 0)), longs, texts)
intents = st.builds(
    Intent,
    st.uuids(),
    texts,
    texts,
    st.sampled_from(("transfer", "reversal")),
    st.lists(legs, max_size=3).map(tuple)
    | st.integers(60, 70).map(lambda count: (Leg("a:b", DEBIT, 1, "EUR"),) * count),
    st.none() | st.uuids(),
    st.none() | longs,
    st.none() | texts,
    st.dictionaries(texts, texts, max_size=3),
    longs,
)


@given(intent=intents, schema_id=st.integers(0, 2**32 - 1))
def test_it_writes_what_fastavro_writes(intent: Intent, schema_id: int) -> None:
    written = intent_encoder(schema_id)(intent, str(intent.intent_id).encode())
    assert written == encoder(SUBJECT, schema_id)(record_of(intent))


def test_what_the_schema_has_not_is_refused() -> None:
    intent = Intent(UUID(int=1), "t", "k", "transfer", (), None, None, None, {}, 0)
    encode = intent_encoder(1)
    with pytest.raises(KeyError):
        encode(intent._replace(type="gift"), b"")
    for beyond in (2**63, -(2**63) - 1):
        with pytest.raises(OverflowError):
            encode(intent._replace(accepted_time=beyond), b"")
        with pytest.raises(OverflowError):
            encode(intent._replace(legs=(Leg("a", DEBIT, beyond, "EUR"),)), b"")
