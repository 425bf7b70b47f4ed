"""The chart of accounts: which line opens an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.chart import (
    DEFAULT_CHART,
    NORMAL_DIRECTIONS,
    AccountClass,
    Chart,
    ChartError,
    ChartPattern,
    check_pattern,
)
from domain.intents import ADDRESS_CHARACTERS_MAX, CREDIT, DEBIT


def line(pattern: str) -> ChartPattern:
    return ChartPattern(pattern, AccountClass.ASSET, DEBIT)


def opened_by(chart: Chart, address: str) -> str | None:
    """Return the pattern that opens the address."""
    found = chart.match(address)
    return found.pattern if found else None


CHART = Chart(map(line, ("a:b", "a:*", "a:**", "*:b", "*:*:c", "a:*:c", "a:b:**", "a:b:*:d", "x", "users:*:wallet")))


@pytest.mark.parametrize(
    ("address", "pattern"),
    [
        ("a:b", "a:b"),
        ("a:c", "a:*"),
        ("a:c:d", "a:**"),
        ("a:c:c", "a:*:c"),
        ("a:b:c", "a:b:**"),
        ("a:b:c:d", "a:b:*:d"),
        ("a:b:c:e", "a:b:**"),
        ("z:b", "*:b"),
        ("z:z:c", "*:*:c"),
        ("x", "x"),
        ("users:42:wallet", "users:*:wallet"),
        ("a", None),  # ** stands for at least one segment
        ("z", None),
        ("x:y", None),
        ("users:wallet", None),
        ("users:4:2:wallet", None),
        ("A:B", None),  # upper and lower case differ
        ("", None),
        (":", None),
        ("a:", None),
        (":b", None),
        ("a::b", None),
        ("a:b ", None),
        ("a:b\n", None),
        ("a:\x00", None),
        ("a:ü", None),
        ("a:\N{ARABIC-INDIC DIGIT ONE}", None),
        ("a:\N{MONEY BAG}", None),
        ("a:*", None),
        ("a:**", None),
        ("a:" + "c" * (ADDRESS_CHARACTERS_MAX - 2), "a:*"),
        ("a:" + "c" * (ADDRESS_CHARACTERS_MAX - 1), None),
    ],
)
def test_the_line_that_is_literal_for_longest_wins(address: str, pattern: str | None) -> None:
    assert opened_by(CHART, address) == pattern
    assert opened_by(CHART, address) == pattern, "asked again, from the cache"


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        ("a", True),
        ("*", True),
        ("a:*:b", True),
        ("a:**", True),
        ("*:**", True),
        ("a-_9:B", True),
        ("", False),
        ("**", False),
        ("a:**:b", False),
        ("a:*b", False),
        ("a:", False),
        (":a", False),
        ("a b", False),
        ("a\n", False),
        ("ü", False),
        ("a:***", False),
        ("a" * ADDRESS_CHARACTERS_MAX, True),
        ("a" * (ADDRESS_CHARACTERS_MAX + 1), False),
    ],
)
def test_what_is_a_pattern(pattern: str, good: bool) -> None:
    if good:
        check_pattern(line(pattern))
    else:
        with pytest.raises(ChartError, match="is no pattern: join segments"):
            check_pattern(line(pattern))
        with pytest.raises(ChartError):
            Chart([line(pattern)])


@pytest.mark.parametrize(
    ("address", "account_class", "normal_direction", "floor_minor"),
    [
        ("users:42:wallet", "liability", CREDIT, 0),
        ("merchants:7", "liability", CREDIT, 0),
        ("external:stripe", "asset", DEBIT, None),
        ("clearing:fx:eur", "asset", DEBIT, None),
        ("platform:fees", "income", CREDIT, None),
        ("platform:fees:card", "asset", DEBIT, None),
        ("equity:opening", "equity", CREDIT, None),
        ("income:salary", "income", CREDIT, None),
        ("expenses:food:lunch", "expense", DEBIT, None),
    ],
)
def test_the_chart_that_a_tenant_starts_with(
    address: str, account_class: str, normal_direction: int, floor_minor: int | None
) -> None:
    found = Chart(DEFAULT_CHART).match(address)
    assert found is not None
    assert (found.account_class, found.normal_direction, found.floor_minor) == (
        account_class,
        normal_direction,
        floor_minor,
    )
    assert found.normal_direction == NORMAL_DIRECTIONS[found.account_class]


def test_the_cache_of_matches_is_bounded() -> None:
    chart = Chart([line("a:*")], cache_addresses_max=10)
    for number in range(100):
        assert opened_by(chart, f"a:{number}") == "a:*"
        assert len(chart._matched) <= 10


def matches(pattern: list[str], address: list[str]) -> bool:
    """Return whether a pattern covers an address, segment by segment."""
    if not pattern or not address:
        return not pattern and not address
    if pattern[0] == "**":
        return True
    return pattern[0] in ("*", address[0]) and matches(pattern[1:], address[1:])


def beats(left: list[str], right: list[str]) -> bool:
    """Return whether the left pattern wins; both cover the address. A name beats *, and * beats **."""
    for one, other in zip(left, right, strict=False):
        if one != other:
            return {"*": 1, "**": 2}.get(one, 0) < {"*": 1, "**": 2}.get(other, 0)
    raise AssertionError("two different patterns cannot be alike")


segments = st.sampled_from(("a", "b", "c"))
addresses = st.lists(segments, min_size=1, max_size=4)
patterns = st.builds(
    lambda middle, last: [*middle, *last],
    st.lists(st.one_of(segments, st.just("*")), min_size=1, max_size=4),
    st.sampled_from(([], [], ["**"])),
)


@given(lines=st.lists(patterns, max_size=8, unique_by=tuple), address=addresses, order=st.randoms())
def test_any_chart_opens_by_the_most_literal_line_whatever_its_order(
    lines: list[list[str]], address: list[str], order: object
) -> None:
    best: list[str] | None = None
    for pattern in lines:
        if matches(pattern, address) and (best is None or beats(pattern, best)):
            best = pattern
    order.shuffle(lines)  # type: ignore[attr-defined]
    chart = Chart(line(":".join(pattern)) for pattern in lines)
    assert opened_by(chart, ":".join(address)) == (None if best is None else ":".join(best))
