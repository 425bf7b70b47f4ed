"""The most common mistakes in a body give a precise sentence after the JSON pointer of the wrong part."""

from typing import Any

import orjson
import pytest

from api.intent_bodies import parse_intent
from api.problems import Problem

LEG = {"account": "external:bank", "direction": "debit", "amount_minor": 1250, "currency": "EUR"}


def with_leg(**members: Any) -> dict[str, Any]:
    return {"type": "transfer", "legs": [{name: value for name, value in (LEG | members).items() if value is not None}]}


CASES = [
    (
        with_leg(amount_minor="12,50"),
        "/legs/0/amount_minor: It is a whole number of minor units without quotes, such as",
    ),
    (with_leg(amount_minor=12.5), "/legs/0/amount_minor: It is a whole number of minor units"),
    (with_leg(amount=12), "/legs/0/amount: There is no such member: amount_minor is meant?"),
    (with_leg(Currency="EUR"), "/legs/0/Currency: There is no such member: currency is meant?"),
    (
        with_leg(colour="red"),
        "/legs/0/colour: There is no such member; there are account, amount_minor, currency, direct",
    ),
    (with_leg(direction="DEBIT"), '/legs/0/direction: It is "debit" or "credit", in small letters.'),
    (with_leg(currency=""), "/legs/0/currency: It is empty: give an ISO 4217 code such as EUR"),
    (with_leg(account=""), "/legs/0/account: It is empty: give an address such as users:42:wallet."),
    (with_leg(currency=None), "/legs/0/currency: It is missing."),
    ({"type": "transfer", "leg": []}, "/leg: There is no such member: legs is meant?"),
    (
        {"type": "reversal", "reverses": "7"},
        "/reverses: It is the id of an intent: 32 hexadecimal digits in five groups.",
    ),
    ({"legs": []}, "/type: It is missing."),
]


@pytest.mark.parametrize(("body", "told"), CASES, ids=range(len(CASES)))
def test_a_mistake_is_told_at_its_place(body: dict[str, Any], told: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_intent(orjson.dumps(body), "default", "key")
    assert refused.value.detail.startswith(told)
    first = refused.value.members["errors"][0]
    assert refused.value.detail.startswith(f"{first['pointer']}: {first['detail']}")


def test_of_many_parts_the_number_is_told() -> None:
    with pytest.raises(Problem) as refused:
        parse_intent(orjson.dumps(with_leg(amount_minor="1", direction="up")), "default", "key")
    assert refused.value.detail.endswith(" And 1 more: see `errors`.")
    assert [part["pointer"] for part in refused.value.members["errors"]] == [
        "/legs/0/direction",
        "/legs/0/amount_minor",
    ]
