"""A JSON object with a repeated member is refused, at any depth and in any spelling of the name."""

import json
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.intent_bodies import parse_batch, parse_intent, parse_json
from api.problems import Kind, Problem
from domain.intents import Intent

LEG = '{"account":"external:bank","direction":"debit","amount_minor":100,"currency":"EUR"}'
OTHER = '{"account":"users:1","direction":"credit","amount_minor":100,"currency":"EUR"}'
PLAIN = f'{{"type":"transfer","legs":[{LEG},{OTHER}],"metadata":{{"a":":b"}}}}'
TWICE = PLAIN.replace('"amount_minor":100', '"amount_minor":100,"amount_minor":200', 1)


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (TWICE, "amount_minor"),
        (TWICE.replace(":200", " : 200"), "amount_minor"),
        (TWICE.replace('"amount_minor":200', r'"\u0061mount_minor":200'), "amount_minor"),
        (TWICE.replace(":100,", ":100,\n  "), "amount_minor"),
        (PLAIN.replace('"legs"', '"type":"transfer","legs"'), "type"),
        (PLAIN.replace('"legs"', '"legs":[],"legs"'), "legs"),
        (PLAIN.replace('"a":', '"a":"1","a":'), "a"),
        (PLAIN.replace('{"a"', '{"x":{"y":[{"z":1,"z":1}]},"a"'), "z"),
        (PLAIN.replace('"EUR"}', '"EUR","":1,"":2}', 1), ""),
    ],
)
def test_a_member_that_stands_twice_is_told(body: str, member: str) -> None:
    with pytest.raises(Problem, match=f"The member '{member}' stands twice") as caught:
        parse_intent(body.encode(), "default", "k")
    assert caught.value.kind is Kind.INVALID_JSON


def test_a_batch_with_a_member_twice_is_refused_whole_and_a_line_alone() -> None:
    items = [text.replace("{", f'{{"idempotency_key":"{key}",', 1) for key, text in (("1", PLAIN), ("2", TWICE))]
    with pytest.raises(Problem, match="stands twice"):
        parse_batch(f"[{','.join(items)}]".encode(), is_ndjson=False, tenant="default")
    first, second = parse_batch("\n".join(items).encode(), is_ndjson=True, tenant="default")
    assert isinstance(first, Intent)
    assert isinstance(second, Problem)
    assert second.kind is Kind.INVALID_JSON


def test_a_repeat_behind_many_members_is_found_at_once() -> None:
    """Comparing each member with all others took a minute for this body."""
    members = ",".join(f'"{number}":1' for number in range(50_000))
    begin = time.process_time()
    with pytest.raises(Problem, match="The member '49999' stands twice"):
        parse_json(f'{{{members},"49999":2}}'.encode())
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        PLAIN.replace(":", ": "),
        PLAIN.replace(":", " : "),
        json.dumps(json.loads(PLAIN), indent=2),
        PLAIN.replace(":b", r"\"a\":1,\"a\":2"),
        PLAIN.replace(":b", ', "a":'.replace('"', "'")),
        PLAIN.replace("100", "9" * 4000),
        "[]",
        "1",
        f"[{PLAIN},{PLAIN}]",
    ],
)
def test_what_has_each_member_once_is_taken(body: str) -> None:
    assert parse_json(body.encode()) == json.loads(body)


NAMES = st.sampled_from(["legs", "metadata", "type", "a", ":", ""])
SPACES = st.sampled_from(["", "", "", " ", "\n"])
TEXTS = st.sampled_from(["", "a", ":", ':"', "x:y", "\\"])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[tuple[str, bool]]) -> tuple[str, bool]:
    """Draw an object as text, and whether it or an object within it repeats a member."""
    members = draw(st.lists(st.tuples(NAMES, SPACES, SPACES, values), max_size=4))
    text = ",".join(f"{json.dumps(name)}{before}:{after}{value}" for name, before, after, (value, _) in members)
    counts = Counter(name for name, *_ in members)
    return f"{{{text}}}", max(counts.values(), default=0) > 1 or any(twice for *_, (_, twice) in members)


def arrays(values: st.SearchStrategy[tuple[str, bool]]) -> st.SearchStrategy[tuple[str, bool]]:
    """Return a strategy for arrays as text, each with whether an object within it repeats a member."""
    return st.lists(values, max_size=4).map(
        lambda parts: (f"[{','.join(text for text, _ in parts)}]", any(twice for _, twice in parts))
    )


SCALARS: Any = st.one_of(TEXTS.map(json.dumps), st.sampled_from(["1", "null", "true", "1e9"])).map(
    lambda text: (text, False)
)
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.one_of(objects(inner), arrays(inner)), max_leaves=12)


@given(DOCUMENTS)
def test_twice_is_refused_and_once_is_taken(document: tuple[str, bool]) -> None:
    text, twice = document
    if twice:
        with pytest.raises(Problem, match="stands twice"):
            parse_json(text.encode())
    else:
        assert parse_json(text.encode()) == json.loads(text)
