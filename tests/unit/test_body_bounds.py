"""Bodies that are cheap to send: each is refused before the models read it, and mostly before the parser does."""

import gc
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.body_bounds import (
    BATCH_FAULTS_SHOWN_MAX,
    BATCH_LINES_MAX,
    INTENT_PARTS_MAX,
    MEMBERS_MAX,
    has_more_parts_than,
)
from api.intent_bodies import parse_batch, parse_intent
from api.problems import Kind, Problem
from domain.intents import ADDRESS_CHARACTERS_MAX, LEGS_MAX, METADATA_ENTRIES_MAX, Intent

# Processor time in seconds: other processes on a busy machine do not add to it. Before the bounds, the bodies took
# from 1 s to 32 s.
SECONDS_MAX = 1.0
BYTES_MAX = 64_000_000
BODY_BYTES_MAX = 4_000_000


def legs(count: int, leg: str = "{}") -> str:
    """Return a transfer with `count` copies of a leg."""
    return '{"type":"transfer","legs":[' + ",".join([leg] * count) + "]}"


def members(count: int) -> str:
    """Return an object with `count` members that no model has."""
    return json.dumps({f"m{number}": 1 for number in range(count)})


ODD_LEG = members(MEMBERS_MAX)
INTENTS: list[tuple[str, str, Kind, dict[str, Any]]] = [
    ("1,333,000 empty legs", legs(1_333_000), Kind.BODY_TOO_COMPLEX, {"parts_max": INTENT_PARTS_MAX}),
    ("1,001 empty legs", legs(LEGS_MAX + 1), Kind.TOO_MANY_LEGS, {"reason": "too_many_legs"}),
    ("1,000 empty legs", legs(LEGS_MAX), Kind.INVALID_REQUEST, {}),
    ("1,000 legs of odd members", legs(LEGS_MAX, ODD_LEG), Kind.INVALID_REQUEST, {}),
    ("a leg of many members", legs(2, members(1000)), Kind.BODY_TOO_COMPLEX, {"members_max": MEMBERS_MAX}),
    ("many members", members(50_000), Kind.BODY_TOO_COMPLEX, {"members_max": MEMBERS_MAX}),
    ("much metadata", f'{{"type":"transfer","metadata":{members(METADATA_ENTRIES_MAX + 1)}}}', Kind.MALFORMED, {}),
    ("deep", "[" * 2_000_000, Kind.BODY_TOO_COMPLEX, {"parts_max": INTENT_PARTS_MAX}),
    ("deep and short", '{"legs":' * 300 + "1" + "}" * 300, Kind.INVALID_JSON, {}),
    ("a long name", f'{{"{"n" * 900_000}":1}}', Kind.INVALID_REQUEST, {}),
    ("a long type", f'{{"type":"{"n" * 900_000}"}}', Kind.INVALID_REQUEST, {}),
    ("a long number", f'{{"type":"transfer","legs":[{{"amount_minor":{"9" * 900_000}}}]}}', Kind.INVALID_JSON, {}),
    ("only commas", "," * BODY_BYTES_MAX, Kind.BODY_TOO_COMPLEX, {"parts_max": INTENT_PARTS_MAX}),
]  # fmt: skip


def bounded(read: Any) -> Any:
    """Return what `read` answers. Fail if it takes too much time or, in a second run, too much memory."""
    # The objects of earlier tests are hidden from the collector, whose passes would count as the time of `read`.
    gc.freeze()
    try:
        began = time.process_time()
        found = answer_of(read)
        assert time.process_time() - began < SECONDS_MAX
    finally:
        gc.unfreeze()
    tracemalloc.start()
    try:
        answer_of(read)
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()
    return found


def answer_of(read: Any) -> Any:
    """Return what `read` returns, or the problem that it raises."""
    try:
        return read()
    except Problem as problem:
        return problem


@pytest.mark.parametrize(("body", "kind", "said"), [case[1:] for case in INTENTS], ids=[case[0] for case in INTENTS])
def test_an_intent_is_refused_before_it_costs_much(body: str, kind: Kind, said: dict[str, Any]) -> None:
    raw = body.encode()
    problem = bounded(lambda: parse_intent(raw, "t", "k"))
    assert isinstance(problem, Problem)
    assert problem.kind is kind
    assert said.items() <= problem.members.items()
    assert len(problem.make_response().body) < 10_000


@pytest.mark.parametrize("is_ndjson", [False, True], ids=["array", "lines"])
@pytest.mark.parametrize("body", [case[1] for case in INTENTS], ids=[case[0] for case in INTENTS])
def test_so_is_an_item_of_a_batch(body: str, is_ndjson: bool) -> None:
    raw = body.encode() if is_ndjson else f"[{body}]".encode()
    found = bounded(lambda: parse_batch(raw, is_ndjson=is_ndjson, tenant="t"))
    assert isinstance(found, Problem) or (len(found) == 1 and isinstance(found[0], Problem))


@pytest.mark.parametrize("is_ndjson", [False, True], ids=["array", "lines"])
@pytest.mark.parametrize(
    "item", [legs(140), legs(10, ODD_LEG), members(MEMBERS_MAX), members(200)], ids=["empty", "odd", "members", "many"]
)
def test_a_thousand_bad_items_are_refused_each_and_say_little(item: str, is_ndjson: bool) -> None:
    raw = "\n".join([item] * 1000).encode() if is_ndjson else f"[{','.join([item] * 1000)}]".encode()
    found = bounded(lambda: parse_batch(raw, is_ndjson=is_ndjson, tenant="t"))
    assert len(found) == 1000
    assert all(isinstance(problem, Problem) for problem in found)
    assert sum(len(problem.members.get("errors", [])) for problem in found) < BATCH_FAULTS_SHOWN_MAX + 1000 + 20


def test_blank_lines_without_end_are_not_looked_through() -> None:
    found = bounded(lambda: parse_batch(b"\n" * BODY_BYTES_MAX, is_ndjson=True, tenant="t"))
    assert found.members == {"lines_max": BATCH_LINES_MAX}
    assert len(parse_batch(b"\n" * BATCH_LINES_MAX + legs(0).encode(), is_ndjson=True, tenant="t")) == 1


def test_an_intent_at_every_limit_is_taken() -> None:
    """The bounds on a body are wider than the ledger's own limits, so an honest sender never reaches them."""
    account = "users:" + "u" * (ADDRESS_CHARACTERS_MAX - 6)
    leg = {"account": account, "amount_minor": 2**53, "currency": "EUR"}
    long_legs = [leg | {"direction": "debit"}, leg | {"direction": "credit"}]
    body = {
        "type": "transfer",
        "legs": long_legs * (LEGS_MAX // 2),
        "reference": "," * 1000,
        "metadata": {f"key{number}": ",[{" * 333 for number in range(METADATA_ENTRIES_MAX)},
    }
    raw = json.dumps(body, ensure_ascii=False, indent=1).encode()
    assert len(raw) < 1_000_000
    assert isinstance(parse_intent(raw, "t", "k"), Intent)


def test_the_first_odd_legs_are_shown_with_their_places() -> None:
    good = '{"account":"a:b","direction":"debit","amount_minor":1,"currency":"EUR"}'
    odd = good.replace("debit", "up")
    problem = answer_of(
        lambda: parse_intent(f'{{"type":"transfer","legs":[{good},{odd},{good},{odd}]}}'.encode(), "t", "k")
    )
    assert [fault["pointer"] for fault in problem.members["errors"]] == ["/legs/1/direction", "/legs/3/direction"]


@given(st.text(alphabet='{[,"]}: a', max_size=400), st.integers(0, 200))
def test_parts_are_counted_right(text: str, parts_max: int) -> None:
    raw = text.encode()
    assert has_more_parts_than(raw, parts_max) == (len(raw) > parts_max and sum(map(text.count, ",{[")) > parts_max)


def test_parts_are_counted_over_chunks() -> None:
    raw = b" " * 65_535 + b",," + b" " * 65_535 + b"[["
    assert has_more_parts_than(raw, 3)
    assert not has_more_parts_than(raw, 4)


names = st.sampled_from(["type", "legs", "account", "metadata"]) | st.text(max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.sampled_from(["transfer", "reversal", "debit"])
json_values = st.recursive(
    leaves | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(names, inner, max_size=8),
    max_leaves=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=json_values, count=st.integers(1, 3_000), is_ndjson=st.booleans())
def test_whatever_is_repeated_in_a_batch_is_answered_within_the_bounds(value: Any, count: int, is_ndjson: bool) -> None:
    one = json.dumps(value)
    count = max(1, min(count, BODY_BYTES_MAX // (len(one) + 1)))
    texts = [one, legs(count, one), f'{{"type":"transfer","metadata":{one}}}']
    for text in texts:
        items = [text] * max(1, min(count, BODY_BYTES_MAX // (len(text) + 1)))
        raw = "\n".join(items).encode() if is_ndjson else f"[{','.join(items)}]".encode()
        began = time.process_time()
        answer_of(lambda raw=raw: parse_batch(raw, is_ndjson=is_ndjson, tenant="t"))
        answer_of(lambda raw=raw: parse_intent(raw, "t", "k"))
        assert time.process_time() - began < 2 * SECONDS_MAX
