"""Equal requests have equal fingerprints, and different requests differ. The canonical JSON follows RFC 8785."""

import hashlib
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from domain.fingerprint import compute_fingerprint, make_canonical_json, make_legs_json, sort_keys
from domain.intents import AMOUNT_MINOR_MAX, VALUE_TIME_MAX, VALUE_TIME_MIN, Leg, compute_intent_id

LEGS = (Leg("external:bank", 1, 700, "EUR"), Leg("users:1", -1, 700, "EUR"))
ASKED: dict[str, Any] = {
    "intent_type": "transfer",
    "legs": LEGS,
    "reverses": None,
    "value_time": None,
    "reference": None,
    "metadata": {},
}


def test_a_known_fingerprint() -> None:
    text = (
        b'{"legs":[{"account":"external:bank","amount_minor":"700","currency":"EUR","direction":"debit"},'
        b'{"account":"users:1","amount_minor":"700","currency":"EUR","direction":"credit"}],"metadata":{},'
        b'"reference":null,"reverses":null,"type":"transfer","value_time":null}'
    )
    assert compute_fingerprint(**ASKED) == hashlib.sha256(text).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"intent_type": "reversal"},
        {"legs": LEGS[::-1]},
        {"legs": (LEGS[0], LEGS[1]._replace(account="users:2"))},
        {"legs": tuple(leg._replace(amount_minor=701) for leg in LEGS)},
        {"legs": tuple(leg._replace(currency="USD") for leg in LEGS)},
        {"legs": tuple(leg._replace(direction=-leg.direction) for leg in LEGS)},
        {"legs": (LEGS[0]._replace(direction=0), LEGS[1])},
        {"reverses": compute_intent_id("default", "x")},
        {"value_time": 0},
        {"reference": ""},
        {"reference": "null"},
        {"metadata": {"a": ""}},
    ],
)
def test_whatever_is_asked_otherwise_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert compute_fingerprint(**{**ASKED, **change}) != compute_fingerprint(**ASKED)


def test_the_order_of_metadata_does_not_count() -> None:
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert compute_fingerprint(**{**ASKED, "metadata": one}) == compute_fingerprint(**{**ASKED, "metadata": other})


def test_amounts_are_decimal_strings_beyond_what_json_numbers_hold() -> None:
    (leg,) = make_legs_json((Leg("a", 1, AMOUNT_MINOR_MAX, "EUR"),))
    assert leg["amount_minor"] == "9223372036854775807"


# All Unicode that UTF-8 can encode, including control characters, quotes and characters beyond U+FFFF.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
ascii_keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=10)
legs = st.lists(
    st.builds(Leg, texts, st.sampled_from((1, -1, 0)), st.integers(-(2**63), AMOUNT_MINOR_MAX), texts), max_size=4
)


@given(
    intent_type=texts,
    legs=legs.map(tuple),
    reverses=st.one_of(st.none(), st.uuids()),
    value_time=st.one_of(st.none(), st.integers(VALUE_TIME_MIN, VALUE_TIME_MAX)),
    reference=st.one_of(st.none(), texts),
    metadata=st.one_of(st.dictionaries(ascii_keys, texts, max_size=5), st.dictionaries(texts, texts, max_size=5)),
)
def test_a_fingerprint_is_over_rfc_8785_json(
    intent_type: str,
    legs: tuple[Leg, ...],
    reverses: UUID | None,
    value_time: int | None,
    reference: str | None,
    metadata: dict[str, str],
) -> None:
    asked = {
        "type": intent_type,
        "legs": [
            {
                "account": leg.account,
                "direction": {1: "debit", -1: "credit", 0: "unknown"}[leg.direction],
                "amount_minor": str(leg.amount_minor),
                "currency": leg.currency,
            }
            for leg in legs
        ],
        "reverses": None if reverses is None else str(reverses),
        "value_time": value_time,
        "reference": reference,
        "metadata": metadata,
    }
    expected = hashlib.sha256(rfc8785.dumps(asked)).digest()
    assert compute_fingerprint(intent_type, legs, reverses, value_time, reference, metadata) == expected


# In UTF-16 code units a surrogate pair (D800 to DFFF) sorts before E000 to FFFF, in code points after it.
MONEY_BAG = "\N{MONEY BAG}"  # D83D DCB0
KEYS_IN_ORDER = [
    ["a", "b"],
    ["Z", "a", "\u00e9"],
    ["\u20ac", MONEY_BAG, "\ue000"],
    ["\N{MATHEMATICAL BOLD CAPITAL A}", MONEY_BAG, "\ufb33", "\uffff"],
    ["a", "a" + MONEY_BAG, "a\uff41"],
    ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\N{GRINNING FACE}", "\ufb33"],  # RFC 8785, 3.2.3
]


@pytest.mark.parametrize("keys", KEYS_IN_ORDER)
def test_metadata_is_sorted_by_utf_16_code_units(keys: list[str]) -> None:
    metadata = dict.fromkeys(sorted(keys, reverse=True), "v")
    assert list(sort_keys(metadata)) == keys
    asked = {
        "legs": make_legs_json(LEGS),
        "metadata": metadata,
        "reference": None,
        "reverses": None,
        "type": "transfer",
    }
    expected = hashlib.sha256(rfc8785.dumps({**asked, "value_time": None})).digest()
    assert compute_fingerprint(**{**ASKED, "metadata": metadata}) == expected


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), texts, st.integers(-(2**53) + 1, 2**53 - 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ascii_keys, inner, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(ascii_keys, json_values, max_size=5))
def test_canonical_json_is_rfc_8785(value: dict[str, Any]) -> None:
    assert make_canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01\x1f\x7f\x80",
        "\u2028\u2029",
        '"\\/\b\f\n\r\t',
        "\N{MONEY BAG}\N{EURO SIGN}",
        "e\u0301",
        "\uffff\U0010ffff",
    ],
)
def test_awkward_text_is_written_as_rfc_8785_says(text: str) -> None:
    assert make_canonical_json({"a": text, "b": [text]}) == rfc8785.dumps({"a": text, "b": [text]})


@pytest.mark.parametrize("value_time", [2**53, -(2**53), 2**63 - 1, -(2**63)])
def test_a_value_time_beyond_all_years_still_has_a_fingerprint(value_time: int) -> None:
    """A request that will be rejected needs a fingerprint too, although exact JSON numbers end at 2^53."""
    near = compute_fingerprint(**{**ASKED, "value_time": value_time - (1 if value_time > 0 else -1)})
    assert compute_fingerprint(**{**ASKED, "value_time": value_time}) != near
