"""The busy day of the demo: its lines alone determine the outcome that it announces for each intent."""

import json
from collections import Counter, defaultdict
from typing import Any

import pytest

from cli.demo.busy_day import BusyDay, Share, make_day
from domain.chart import DEFAULT_CHART, Chart
from domain.intents import CREDIT, DEBIT, DIRECTIONS, Leg
from producers.importing.model import ImportIntent, Place

PLACE = Place("book", 1)


def _template(key: str, *legs: Leg) -> ImportIntent:
    return ImportIntent(PLACE, key, legs, key, {}, 0)


TEMPLATES = [
    _template("lunch", Leg("expenses:Food", DEBIT, 1250, "USD"), Leg("liabilities:Card", CREDIT, 1250, "USD")),
    _template("pay", Leg("assets:Bank", DEBIT, 90_000, "USD"), Leg("income:Salary", CREDIT, 90_000, "USD")),
    _template(
        "buy",
        Leg("assets:Shares", DEBIT, 3, "VHT"),
        Leg("clearing:exchange:VHT", CREDIT, 3, "VHT"),
        Leg("clearing:exchange:VHT", DEBIT, 30_000, "USD"),
        Leg("assets:Bank", CREDIT, 30_000, "USD"),
    ),
]


def _day(**changes: Any) -> BusyDay:
    arguments: dict[str, Any] = {"intents": 3000, "customers": 20, "batch_items": 100, "seed": 1}
    return make_day(TEMPLATES, **arguments | changes)


def _items(requests: list[list[bytes]]) -> list[dict[str, Any]]:
    return [json.loads(line) for lines in requests for line in lines]


def test_the_same_arguments_give_the_same_day() -> None:
    assert _day().day == _day().day
    assert _day().day != _day(seed=2).day


def test_every_request_keeps_its_size_and_holds_a_repeat_with_its_original() -> None:
    day = _day(share=Share(duplicate=300, conflict=300))
    assert all(0 < len(lines) <= 100 for lines in day.day + day.funding)
    first_request: dict[str, int] = {}
    for number, lines in enumerate(day.day):
        for line in lines:
            key = json.loads(line)["idempotency_key"]
            assert first_request.setdefault(key, number) == number


@pytest.mark.parametrize("share", [Share(), Share(0, 0, 0, 0, 0), Share(200, 200, 200, 200, 200)])
def test_a_ledger_that_follows_the_rules_comes_to_what_is_expected(share: Share) -> None:
    """A simple model applies keys, chart, units and floors to one intent after the other, the funding first."""
    day = _day(share=share)
    chart = Chart(DEFAULT_CHART)
    seen: dict[str, dict[str, Any]] = {}
    balances: dict[tuple[str, str], int] = defaultdict(int)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for item in _items(day.funding) + _items(day.day):
        key = item["idempotency_key"]
        if key in seen:
            outcomes["duplicate" if seen[key] == item else "idempotency_conflict"] += 1
            continue
        seen[key] = item
        moves = [
            ((leg["account"], leg["currency"]), DIRECTIONS[leg["direction"]] * leg["amount_minor"])
            for leg in item["legs"]
        ]
        lines = [chart.match(account) for (account, _), _ in moves]
        after = dict(balances)
        for where, amount in moves:
            after[where] = after.get(where, 0) + amount
        reason = ""
        if any(currency == "NOSUCHUNIT" for (_, currency), _ in moves):
            reason = "unknown_currency"
        elif None in lines:
            reason = "unknown_account"
        elif any(line is not None and line.floor_minor == 0 and after[where] > 0
                 for line, (where, _) in zip(lines, moves, strict=True)):  # fmt: skip
            reason = "insufficient_funds"
        outcomes["rejected" if reason else "posted"] += 1
        if reason:
            reasons[reason] += 1
        else:
            balances.update(after)
    expected = day.expected
    assert outcomes == expected.outcomes
    assert reasons == expected.reasons
    assert {where: amount for where, amount in balances.items() if amount} == {
        where: amount for where, amount in expected.balances.items() if amount
    }
    assert sum(outcomes.values()) == day.intents
