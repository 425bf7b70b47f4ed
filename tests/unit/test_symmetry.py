"""Symmetry rules: their text, which rule an account has, what a batch moves, and when money is late."""

from typing import Any, cast

import pytest

from db.symmetry import Away, Movement
from domain.symmetry import (
    SymmetryError,
    SymmetryRule,
    SymmetryRules,
    format_rules,
    merge_rules,
    parse_rules,
)
from streams.proof.reconciliation.clearing import find_overdue, list_movements

SECOND = 1_000_000
RULE = SymmetryRule("in", "clearing:**", 0, 60)

GOOD = [
    ("", ()),
    ("in=clearing:**:0:60", (RULE,)),
    (" in = clearing:**:0:1m ; ", (RULE,)),
    ("a=x:*:-5:2h;b=y:0:1d", (SymmetryRule("a", "x:*", -5, 7200), SymmetryRule("b", "y", 0, 86_400))),
]

BAD = [
    ("in", "write NAME=PATTERN:BALANCE:TERM"),
    ("in=clearing:0", "write NAME=PATTERN:BALANCE:TERM"),
    ("In=x:0:60", "is no rule's name"),
    ("in=x::0:60", "is no pattern"),
    ("in=**:x:0:60", "is no pattern"),
    ("in=x:1.5:60", "whole number of minor units"),
    ("in=x:9999999999999999999:60", "does not fit in 64 bits"),
    ("in=x:0:soon", "a number of seconds"),
    ("in=x:0:0", "from one second to ten years"),
    ("in=x:0:9999d", "from one second to ten years"),
    ("in=x:0:60;in=y:0:60", "the same name"),
    ("in=x:0:60;out=x:0:30", "the same pattern"),
]


@pytest.mark.parametrize(("text", "rules"), GOOD)
def test_rules_are_read_and_written(text: str, rules: tuple[SymmetryRule, ...]) -> None:
    assert parse_rules(text) == rules
    assert parse_rules(format_rules(rules)) == rules


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_bad_rule_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(SymmetryError) as refused:
        parse_rules(text)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_most_specific_pattern_wins() -> None:
    rules = SymmetryRules(parse_rules("all=clearing:**:0:60;one=clearing:stripe:0:5;any=clearing:*:0:30"))
    names = {
        address: rule.name if (rule := rules.match(address)) else None
        for address in ("clearing:stripe", "clearing:bank", "clearing:bank:x", "users:1", "no good")
    }
    assert list(names.values()) == ["one", "any", "all", None, None]


def test_an_own_rule_replaces_a_capabilitys_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.symmetry.RULES", {"in": RULE})
    assert merge_rules(()).rules == (RULE,)
    assert merge_rules(parse_rules("in=other:0:5")).rules == (SymmetryRule("in", "other", 0, 5),)


def test_a_batch_adds_up_matched_accounts_only() -> None:
    legs = [
        ("clearing:a", "debit", 5),
        ("clearing:a", "debit", 2),
        ("clearing:a", "credit", 1),
        ("users:1", "credit", 6),
    ]
    record = {
        "tenant": "default",
        "lane": 3,
        "seq": 9,
        "booked_time": 70,
        "legs": [{"account": a, "direction": d, "amount_minor": n, "currency": "EUR"} for a, d, n in legs],
    }
    assert list_movements([cast("Any", record)], SymmetryRules((RULE,))) == [
        Movement("default", "clearing:a", "EUR", 1, 3, 9, 7, 70),
        Movement("default", "clearing:a", "EUR", -1, 3, 9, 1, 70),
    ]


@pytest.mark.parametrize(
    ("away", "horizon_seconds", "is_late"),
    [
        (None, 1000, False),
        (Away(5, None), 1000, False),
        (Away(5, 100 * SECOND), 160, False),
        (Away(5, 100 * SECOND), 161, True),
        (Away(-5, 100 * SECOND), 161, True),
        (Away(5, 100 * SECOND), 0, False),
    ],
)
def test_money_is_late_after_its_term_by_the_horizon(away: Away | None, horizon_seconds: int, is_late: bool) -> None:
    finding = find_overdue(("default", "clearing:a", "EUR"), RULE, away, horizon_seconds * SECOND)
    assert (finding is not None) == is_late
    if finding is not None:
        assert finding.subject == "default clearing:a EUR rule in"
