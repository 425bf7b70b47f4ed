"""The chart of accounts: address patterns, and what an account may do whose address matches one."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN, CREDIT, DEBIT

PATTERN_PATTERN: Final = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?::(?:[A-Za-z0-9_-]+|\*))*(?::\*\*)?", re.ASCII)


class AccountClass(StrEnum):
    """The five classes of double-entry accounting."""

    ASSET = "asset"
    LIABILITY = "liability"
    EQUITY = "equity"
    INCOME = "income"
    EXPENSE = "expense"


# The side on which each class grows.
NORMAL_DIRECTIONS: Final = {
    AccountClass.ASSET: DEBIT,
    AccountClass.EXPENSE: DEBIT,
    AccountClass.LIABILITY: CREDIT,
    AccountClass.EQUITY: CREDIT,
    AccountClass.INCOME: CREDIT,
}


class ChartPattern(NamedTuple):
    """One line of the chart. `*` matches one segment of an address; `**` at the end matches one or more."""

    pattern: str
    account_class: AccountClass
    normal_direction: int
    floor_minor: int | None = None
    """Lowest balance on the normal side, in minor units of each currency; None: no limit."""
    currencies: frozenset[str] | None = None
    """The currencies that are allowed; None: all."""


class ChartError(ValueError):
    """A pattern is not well formed; the message says why."""


def _rank(segment: str) -> int:
    return {"**": 2, "*": 1}.get(segment, 0)


def _make_expression(pattern: str) -> str:
    wildcards = {"*": "[^:]+", "**": ".+"}
    return ":".join(wildcards.get(segment, re.escape(segment)) for segment in pattern.split(":"))


def check_pattern(line: ChartPattern) -> None:
    """Raise ChartError if the pattern of a chart line is not well formed."""
    if len(line.pattern) > ADDRESS_CHARACTERS_MAX or not PATTERN_PATTERN.fullmatch(line.pattern):
        raise ChartError(
            f"{line.pattern!r} is no pattern: join segments of letters, digits, - and _, or *, by colons; ** only last."
        )


class Chart:
    """A tenant's chart. If several patterns match an address, the most specific one wins.

    Patterns are compared segment by segment from the left: a literal goes before `*`, and `*` before `**`.
    """

    def __init__(self, lines: Iterable[ChartPattern], *, cache_addresses_max: int = 200_000) -> None:
        ordered = sorted(
            lines, key=lambda line: ([_rank(segment) for segment in line.pattern.split(":")], line.pattern)
        )
        for line in ordered:
            check_pattern(line)
        self._lines = [(re.compile(_make_expression(line.pattern), re.ASCII), line) for line in ordered]
        self._matched: dict[str, ChartPattern | None] = {}
        self._cache_addresses_max = cache_addresses_max

    def match(self, address: str) -> ChartPattern | None:
        """Return the line that applies to `address`; None if the address is not valid or if no line matches."""
        try:
            return self._matched[address]
        except KeyError:
            pass
        found = None
        if len(address) <= ADDRESS_CHARACTERS_MAX and ADDRESS_PATTERN.fullmatch(address):
            found = next((line for expression, line in self._lines if expression.fullmatch(address)), None)
        if len(self._matched) >= self._cache_addresses_max:
            self._matched.clear()
        self._matched[address] = found
        return found


def _make_line(pattern: str, account_class: AccountClass, floor_minor: int | None = None) -> ChartPattern:
    return ChartPattern(pattern, account_class, NORMAL_DIRECTIONS[account_class], floor_minor)


# The chart that a new tenant starts with; `ledgerline chart` changes it.
DEFAULT_CHART: Final[tuple[ChartPattern, ...]] = (
    _make_line("users:**", AccountClass.LIABILITY, floor_minor=0),
    _make_line("merchants:**", AccountClass.LIABILITY, floor_minor=0),
    _make_line("external:**", AccountClass.ASSET),
    _make_line("clearing:**", AccountClass.ASSET),
    _make_line("platform:fees", AccountClass.INCOME),
    _make_line("platform:**", AccountClass.ASSET),
    _make_line("assets:**", AccountClass.ASSET),
    _make_line("liabilities:**", AccountClass.LIABILITY),
    _make_line("equity:**", AccountClass.EQUITY),
    _make_line("income:**", AccountClass.INCOME),
    _make_line("expenses:**", AccountClass.EXPENSE),
)
