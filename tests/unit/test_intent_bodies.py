"""The fast reader of plain transfers agrees with the pydantic models that document them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import intent_bodies
from api.intent_bodies import parse_batch, parse_intent
from api.intent_models import INTENT_FORM, ITEM_FORM, read_by_model
from api.plain_bodies import read_plain_transfer
from api.problems import Problem
from domain.intents import ADDRESS_CHARACTERS_MAX, AMOUNT_MINOR_MAX

LEG: dict[str, Any] = {"account": "a:b", "direction": "debit", "amount_minor": 100, "currency": "EUR"}
ITEM: dict[str, Any] = {
    "idempotency_key": "k",
    "type": "transfer",
    "legs": [LEG, LEG | {"direction": "credit"}],
    "reverses": None,
    "value_time": "2026-01-01T00:00:00Z",
    "reference": "r",
    "metadata": {"a": "b"},
}
# Odd values of each type, and values on both sides of each bound.
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX + 1, 10**30, "", "x", "debit", "EUR", [], [1],
     {}, {"a": 1}, {"a": None}, "transfer", "reversal", "x" * 24, "x" * 25, "x" * 40, "x" * 41, "x" * 64, "x" * 65,
     "ü" * ADDRESS_CHARACTERS_MAX, "x" * (ADDRESS_CHARACTERS_MAX + 1), "00000000-0000-0000-0000-000000000001",
     "1970-01-01T00:00:01Z", "a\x00"]  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, members: dict[str, Any]) -> dict[str, Any]:
    """Return the object unchanged, or with some members replaced, left out or added."""
    made = dict(members)
    for name in draw(st.lists(st.sampled_from([*members, "more"]), max_size=2)):
        if draw(st.booleans()):
            made[name] = draw(st.sampled_from(ODD_VALUES))
        else:
            made.pop(name, None)
    return made


legs = st.lists(altered(LEG), max_size=3) | st.just(ITEM["legs"]) | st.sampled_from(ODD_VALUES)
items = (
    st.builds(lambda item, legs: item | {"legs": legs}, altered(ITEM), legs)
    | altered(ITEM)
    | st.sampled_from(ODD_VALUES)
)


def one_changed() -> list[Any]:
    """Return variants of the item: one member of the item or of a leg is left out or has an odd value."""
    changes = [(name, value) for name in [*ITEM, "more"] for value in ODD_VALUES]
    leg_changes = [(name, value) for name in [*LEG, "more"] for value in ODD_VALUES]
    return [
        *(ITEM | {name: value} for name, value in changes),
        *(ITEM | {"legs": [LEG | {name: value}, ITEM["legs"][1]]} for name, value in leg_changes),
        *({name: ITEM[name] for name in ITEM if name != missing} for missing in ITEM),
        *(ITEM | {"legs": [{name: LEG[name] for name in LEG if name != missing}]} for missing in LEG),
    ]


def check_quick(value: Any) -> None:
    """Check that the models read everything that the fast reader reads, with equal results."""
    for form in (INTENT_FORM, ITEM_FORM):
        asked = read_plain_transfer(value, form.members)
        if asked is not None:
            found = read_by_model(value, form, 1)
            assert asked == found
            assert repr(asked) == repr(found)  # == alone takes True for 1


def check_answers(value: Any) -> None:
    """Check that the answer is the same without the fast reader."""
    raw = json.dumps([value]).encode()
    quick = answers(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intent_bodies, "read_plain_transfer", lambda _value, _members: None)
        assert answers(raw) == quick


def answers(raw: bytes) -> list[Any]:
    """Return the answers to a body as a batch, as lines and as one intent, without the accepted times."""
    found: list[Any] = []
    for read in (
        lambda: parse_batch(raw, is_ndjson=False, tenant="t"),
        lambda: parse_batch(raw[1:-1], is_ndjson=True, tenant="t"),
        lambda: [parse_intent(raw[1:-1], "t", "k")],
    ):
        try:
            read_items = read()
        except Problem as problem:
            read_items = [problem]
        found += [
            item.document() if isinstance(item, Problem) else item._replace(accepted_time=0) for item in read_items
        ]
    return found


def test_one_odd_member_is_answered_the_same_by_either_reading() -> None:
    for value in one_changed():
        check_quick(value)
        check_answers(value)


@given(items)
def test_whatever_comes_is_answered_the_same_by_either_reading(value: Any) -> None:
    check_quick(value)
    check_answers(value)


def test_a_plain_transfer_is_read_quickly() -> None:
    assert read_plain_transfer(ITEM, ITEM_FORM.members) is not None
    bare = {name: ITEM[name] for name in ("type", "legs")}
    assert read_plain_transfer(bare, INTENT_FORM.members) is not None
