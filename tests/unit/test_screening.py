"""The rules for an intent that do not depend on balances: each row is a case, and its last value is the outcome."""

from typing import Any

import pytest

from domain.chart import AccountClass, Chart, ChartPattern
from domain.intents import (
    AMOUNT_MINOR_MAX,
    KEY_CHARACTERS_MAX,
    LEGS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_VALUE_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    TENANT_CHARACTERS_MAX,
    VALUE_TIME_MAX,
    VALUE_TIME_MIN,
    Intent,
    Leg,
    compute_intent_id,
)
from domain.outcomes import Reason
from domain.screening import find_identity_fault, get_value_time, make_shown, refuse_by_books, refuse_legs, refuse_shape
from tests.posting_model import leg, pair, reversal, transfer

GOOD = transfer("key", *pair("external:bank", "users:1", 100))
MONEY_BAG = "\N{MONEY BAG}"


def reason_of(intent: Intent) -> str:
    """Return the reason for which the shape is refused, or `fine`."""
    refusal = refuse_shape(intent)
    return refusal.reason.value if refusal else "fine"


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "fine"),
        # malformed
        ({"legs": pair("a b", "b", 1)}, "malformed"),
        ({"legs": pair("a", "zoé", 1)}, "malformed"),
        ({"legs": pair("a", "b\x00", 1)}, "malformed"),
        ({"legs": pair("", "b", 1)}, "malformed"),
        ({"legs": pair("a" * 257, "b", 1)}, "malformed"),
        ({"legs": pair("a", "b:", 1)}, "malformed"),
        ({"reference": ""}, "fine"),
        ({"reference": MONEY_BAG}, "fine"),
        ({"reference": MONEY_BAG * REFERENCE_CHARACTERS_MAX}, "fine"),
        ({"reference": "x" * (REFERENCE_CHARACTERS_MAX + 1)}, "malformed"),
        ({"reference": "a\x00b"}, "malformed"),
        ({"reference": "\x01\x1f\x7f"}, "fine"),
        ({"metadata": {"a.b:c-d_9": MONEY_BAG}}, "fine"),
        ({"metadata": {"": "x"}}, "malformed"),
        ({"metadata": {"a b": "x"}}, "malformed"),
        ({"metadata": {"ü": "x"}}, "malformed"),
        ({"metadata": {"a\n": "x"}}, "malformed"),
        ({"metadata": {"k" * 64: "x"}}, "fine"),
        ({"metadata": {"k" * 65: "x"}}, "malformed"),
        ({"metadata": {"k": "\x00"}}, "malformed"),
        ({"metadata": {"k": "v" * METADATA_VALUE_CHARACTERS_MAX}}, "fine"),
        ({"metadata": {"k": "v" * (METADATA_VALUE_CHARACTERS_MAX + 1)}}, "malformed"),
        ({"metadata": {str(number): "" for number in range(METADATA_ENTRIES_MAX)}}, "fine"),
        ({"metadata": {str(number): "" for number in range(METADATA_ENTRIES_MAX + 1)}}, "malformed"),
        ({"reverses": compute_intent_id("default", "other")}, "malformed"),
        ({"type": "reversal"}, "malformed"),
        ({"legs": (leg("a", 0, 1), leg("b", -1, 1))}, "malformed"),
        # type and number of legs
        ({"type": "unknown"}, "unsupported_type"),
        ({"type": ""}, "unsupported_type"),
        ({"legs": ()}, "no_legs"),
        ({"legs": (leg("a", 1, 1),)}, "no_legs"),
        ({"legs": pair("a", "b", 1) * (LEGS_MAX // 2)}, "fine"),
        ({"legs": (*pair("a", "b", 1) * (LEGS_MAX // 2), leg("a", 1, 1))}, "too_many_legs"),
        ({"legs": pair("a", "b", 1) * 5000}, "too_many_legs"),
        # amounts
        ({"legs": pair("a", "b", 0)}, "invalid_amount"),
        ({"legs": pair("a", "b", -5)}, "invalid_amount"),
        ({"legs": pair("a", "b", -(2**63))}, "invalid_amount"),
        ({"legs": pair("a", "b", 1)}, "fine"),
        ({"legs": pair("a", "b", AMOUNT_MINOR_MAX)}, "fine"),
        ({"legs": pair("a", "b", AMOUNT_MINOR_MAX + 1)}, "invalid_amount"),
        # balance
        ({"legs": (leg("a", 1, 5), leg("b", -1, 4))}, "unbalanced"),
        ({"legs": (leg("a", 1, 5), leg("b", 1, 5))}, "unbalanced"),
        ({"legs": (leg("a", 1, 5), leg("b", -1, 5, "USD"))}, "unbalanced"),
        ({"legs": (*pair("a", "b", 5), leg("a", 1, 5, "USD"), leg("b", -1, 6, "USD"))}, "unbalanced"),
        ({"legs": (*pair("a", "b", 5), *pair("a", "b", 6, "USD"))}, "fine"),
        ({"legs": (leg("a", 1, 5), leg("b", -1, 2), leg("c", -1, 3))}, "fine"),
        ({"legs": (*pair("a", "b", AMOUNT_MINOR_MAX), *pair("a", "b", AMOUNT_MINOR_MAX))}, "fine"),
        # times
        ({"value_time": VALUE_TIME_MIN}, "fine"),
        ({"value_time": VALUE_TIME_MIN - 1}, "value_time_out_of_range"),
        ({"value_time": VALUE_TIME_MAX - 1}, "fine"),
        ({"value_time": VALUE_TIME_MAX}, "value_time_out_of_range"),
        ({"accepted_time": 0}, "fine"),
        ({"accepted_time": VALUE_TIME_MAX}, "value_time_out_of_range"),
        ({"accepted_time": 253_370_764_800_000_000}, "value_time_out_of_range"),
        ({"accepted_time": VALUE_TIME_MAX, "value_time": 0}, "fine"),
    ],
)  # fmt: skip
def test_the_shape_of_a_transfer(change: dict[str, Any], outcome: str) -> None:
    assert reason_of(GOOD._replace(**change)) == outcome


@pytest.mark.parametrize(
    ("intent", "outcome"),
    [
        (reversal("r", "key"), "fine"),
        (reversal("r", "key", *pair("a", "b", 1)), "fine"),
        (reversal("r", "key", leg("a", 1, 1)), "no_legs"),
        (reversal("r", "key", leg("a", 1, 1), leg("b", -1, 2)), "unbalanced"),
        (reversal("r", "key", reverses=None), "malformed"),
    ],
)
def test_the_shape_of_a_reversal(intent: Intent, outcome: str) -> None:
    assert reason_of(intent) == outcome


CHART = Chart(
    [
        ChartPattern("free:*", AccountClass.ASSET, 1),
        ChartPattern("euro:*", AccountClass.ASSET, 1, None, frozenset({"EUR", "MILES"})),
        ChartPattern("closed:*", AccountClass.ASSET, 1, None, frozenset()),
    ]
)


@pytest.mark.parametrize(
    ("legs", "outcome"),
    [
        (pair("free:a", "free:b", 1), "fine"),
        (pair("free:a", "free:b", 1, "MILES"), "fine"),
        (pair("free:a", "free:b", 1, "SHARES"), "unknown_currency"),
        (pair("free:a", "free:b", 1, "eur"), "unknown_currency"),
        (pair("free:a", "free:b", 1, ""), "unknown_currency"),
        (pair("free:a", "free:b", 1, "E\x00R"), "unknown_currency"),
        (pair("free:a", "free:b", 1, "XAU"), "unknown_currency"),
        (pair("free:a", "else:b", 1), "unknown_account"),
        (pair("free:a", "free:b:c", 1), "unknown_account"),
        (pair("free:a", "", 1), "unknown_account"),
        (pair("free:a", "free:\x00", 1), "unknown_account"),
        (pair("free:a", f"free:{MONEY_BAG}", 1), "unknown_account"),
        (pair("free:a", "free:" + "x" * 300, 1), "unknown_account"),
        (pair("euro:a", "free:b", 1), "fine"),
        (pair("euro:a", "free:b", 1, "MILES"), "fine"),
        (pair("euro:a", "free:b", 1, "USD"), "currency_not_allowed"),
        (pair("closed:a", "free:b", 1), "currency_not_allowed"),
        # The precedence of the reasons does not depend on the order of the legs.
        ((*pair("closed:a", "else:b", 1), *pair("free:a", "free:b", 1, "SHARES")), "unknown_currency"),
        ((*pair("closed:a", "free:b", 1), *pair("free:a", "else:b", 1)), "unknown_account"),
    ],
)
def test_the_place_of_legs_in_the_books(legs: tuple[Leg, ...], outcome: str) -> None:
    refusal = refuse_by_books(legs, CHART, {"MILES": 0, "EUR": 9})
    assert (refusal.reason.value if refusal else "fine") == outcome


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("eur", "'eur' is no currency: write it in capital letters, EUR."),
        ("Miles", "'Miles' is no currency: write it in capital letters, MILES."),
        ("€", "'\\u20ac' is neither an ISO 4217 code nor a registered unit."),
        ("xau", "'xau' is neither an ISO 4217 code nor a registered unit."),
    ],
)
def test_a_currency_that_is_not_known_is_told_how_it_is_written(code: str, sentence: str) -> None:
    refusal = refuse_by_books(pair("free:a", "free:b", 1, code), CHART, {"MILES": 0})
    assert refusal is not None
    assert refusal.detail == sentence


# An intent with every fault. MENDINGS lists each reason in order of precedence and the change that removes its fault.
WORST: dict[str, Any] = {
    "reference": "\x00",
    "type": "gift",
    "legs": (),
    "value_time": VALUE_TIME_MAX,
}
MENDINGS: tuple[tuple[Reason, dict[str, Any]], ...] = (
    (Reason.MALFORMED, {"reference": None}),
    (Reason.UNSUPPORTED_TYPE, {"type": "transfer"}),
    (Reason.NO_LEGS, {"legs": (*pair("else:a", "else:b", -1, "XQX") * 600, leg("closed:a", 1, 5, "USD"))}),
    (Reason.TOO_MANY_LEGS, {"legs": (*pair("else:a", "else:b", -1, "XQX"), leg("closed:a", 1, 5, "USD"))}),
    (Reason.INVALID_AMOUNT, {"legs": (*pair("else:a", "else:b", 1, "XQX"), leg("closed:a", 1, 5, "USD"))}),
    (Reason.UNBALANCED, {"legs": (*pair("else:a", "else:b", 1, "XQX"), *pair("closed:a", "free:b", 5, "USD"))}),
    (Reason.VALUE_TIME_OUT_OF_RANGE, {"value_time": 0}),
    (Reason.UNKNOWN_CURRENCY, {"legs": (*pair("else:a", "else:b", 1), *pair("closed:a", "free:b", 5, "USD"))}),
    (Reason.UNKNOWN_ACCOUNT, {"legs": pair("closed:a", "free:b", 5, "USD")}),
    (Reason.CURRENCY_NOT_ALLOWED, {"legs": pair("free:a", "free:b", 5, "USD")}),
)


def test_an_intent_with_every_fault_gets_the_first_and_mended_the_next() -> None:
    intent = GOOD._replace(**WORST)
    found = []
    for _, mending in MENDINGS:
        refusal = refuse_shape(intent) or refuse_by_books(intent.legs, CHART, {})
        assert refusal is not None
        found.append(refusal.reason)
        intent = intent._replace(**mending)
    assert found == [reason for reason, _ in MENDINGS] == list(Reason)[: len(MENDINGS)]
    assert (refuse_shape(intent), refuse_by_books(intent.legs, CHART, {})) == (None, None)


@pytest.mark.parametrize(
    ("tenant", "key", "fault"),
    [
        ("default", "key", None),
        ("a-b_c9", "key", None),
        ("t" * TENANT_CHARACTERS_MAX, "key", None),
        ("t" * (TENANT_CHARACTERS_MAX + 1), "key", "is no tenant's name"),
        ("", "key", "is no tenant's name"),
        ("-a", "key", "is no tenant's name"),
        ("Default", "key", "is no tenant's name"),
        ("a\n", "key", "is no tenant's name"),
        ("a\x00", "key", "is no tenant's name"),
        (MONEY_BAG, "key", "is no tenant's name"),
        ("default", "", "must have 1 to 255 characters and no NUL"),
        ("default", "k" * KEY_CHARACTERS_MAX, None),
        ("default", "k" * (KEY_CHARACTERS_MAX + 1), "must have 1 to 255 characters and no NUL"),
        ("default", "a\x00b", "must have 1 to 255 characters and no NUL"),
        ("default", MONEY_BAG, None),
        ("default", " ", None),
    ],
)
def test_who_can_be_told_by_tenant_and_key(tenant: str, key: str, fault: str | None) -> None:
    found = find_identity_fault(
        GOOD._replace(tenant=tenant, idempotency_key=key, intent_id=compute_intent_id(tenant, key))
    )
    assert (found is None) if fault is None else (found is not None and fault in found)


@pytest.mark.parametrize("other", [("default", "other"), ("other", "key")])
def test_an_id_that_follows_from_something_else_is_a_fault(other: tuple[str, str]) -> None:
    found = find_identity_fault(GOOD._replace(intent_id=compute_intent_id(*other)))
    assert found == f"The intent id {compute_intent_id(*other)} does not follow from its tenant and idempotency key."


def test_tenant_and_key_do_not_run_into_each_other() -> None:
    assert compute_intent_id("a", "bc") != compute_intent_id("ab", "c")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a", "'a'"),
        (MONEY_BAG, r"'\U0001f4b0'"),
        ("\x00\n", r"'\x00\n'"),
        ("x" * 80, "'" + "x" * 80 + "'"),
        ("x" * 81, "'" + "x" * 80 + "...'"),
    ],
)
def test_foreign_text_is_shown_quoted_in_ascii_and_cut(text: str, quoted: str) -> None:
    assert make_shown(text) == quoted


def test_the_detail_says_which_side_has_how_much_too_many() -> None:
    more, less = refuse_legs((leg("a", 1, 7), leg("b", -1, 5))), refuse_legs((leg("a", 1, 5), leg("b", -1, 7)))
    assert more is not None
    assert less is not None
    assert more.detail == "Debits in 'EUR' are 2 minor units too many."
    assert less.detail == "Credits in 'EUR' are 2 minor units too many."


def test_the_value_time_is_what_was_asked_else_when_it_was_accepted() -> None:
    assert get_value_time(GOOD) == GOOD.accepted_time
    assert get_value_time(GOOD._replace(value_time=0)) == 0
    assert get_value_time(GOOD._replace(value_time=0, accepted_time=0)) == 0


def test_an_intent_without_value_time_and_time_of_acceptance_has_none() -> None:
    assert get_value_time(GOOD._replace(accepted_time=0)) is None
