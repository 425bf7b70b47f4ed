"""Symmetry rules: what balance the accounts of a pattern must come back to, and by when.

Money that went away from the wanted balance is matched first in, first out: the n-th unit that came back is the return
of the n-th unit that went away. An account is away since the booking time of its oldest unit that has no return.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from domain.chart import AccountClass, Chart, ChartError, ChartPattern, check_pattern
from domain.intents import AMOUNT_MINOR_MAX, DEBIT

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
TERM_PATTERN: Final = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)
BALANCE_PATTERN: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
TERM_SECONDS_MAX: Final = 3660 * 86_400
RULES_MAX: Final = 100


class SymmetryRule(NamedTuple):
    """One rule. `pattern` is in the chart's language, such as `clearing:**`."""

    name: str
    pattern: str
    balance_minor: int
    """The wanted balance: debits less credits over all lanes, in minor units of each currency; normally 0."""
    term_seconds: int
    """How long money may be away."""
    description: str = ""


RULES: Final[dict[str, SymmetryRule]] = {}
"""The rules that capabilities register, by name. A rule of the installation with the same name replaces one."""


class SymmetryError(ValueError):
    """A rule is not well formed; the message is one sentence."""


class SymmetryRules:
    """The rules of a process. If several patterns match an address, the most specific one wins, as in the chart."""

    def __init__(self, rules: Iterable[SymmetryRule]) -> None:
        """Raise SymmetryError if two rules have the same pattern."""
        self.rules = tuple(rules)
        self._by_pattern = {rule.pattern: rule for rule in self.rules}
        if len(self._by_pattern) != len(self.rules):
            raise SymmetryError("Two symmetry rules have the same pattern.")
        self._chart = Chart(ChartPattern(rule.pattern, AccountClass.ASSET, DEBIT) for rule in self.rules)

    def __bool__(self) -> bool:
        """Return whether there is any rule."""
        return bool(self.rules)

    def match(self, address: str) -> SymmetryRule | None:
        """Return the rule of an address, from a cache; None if no rule applies."""
        line = self._chart.match(address)
        return None if line is None else self._by_pattern[line.pattern]


def check_rule(rule: SymmetryRule) -> None:
    """Raise SymmetryError if a rule is not well formed."""
    if not NAME_PATTERN.fullmatch(rule.name):
        raise SymmetryError(f"{rule.name!r} is no rule's name: begin with a-z and go on with a-z, 0-9 and -.")
    try:
        check_pattern(ChartPattern(rule.pattern, AccountClass.ASSET, DEBIT))
    except ChartError as error:
        raise SymmetryError(f"Rule {rule.name}: {error}") from error
    if abs(rule.balance_minor) > AMOUNT_MINOR_MAX:
        raise SymmetryError(f"Rule {rule.name}: the balance does not fit in 64 bits.")
    if not 1 <= rule.term_seconds <= TERM_SECONDS_MAX:
        raise SymmetryError(f"Rule {rule.name}: the term must be from one second to ten years.")


def parse_rules(text: str) -> tuple[SymmetryRule, ...]:
    """Parse `NAME=PATTERN:BALANCE:TERM` rules, separated by `;`, such as `external-in=clearing:**:0:24h`.

    TERM is a whole number with an optional unit: s (seconds, the default), m, h or d. Raise SymmetryError.
    """
    rules = [_parse_rule(part.strip()) for part in text.split(";") if part.strip()]
    if len(rules) > RULES_MAX:
        raise SymmetryError(f"There are {len(rules)} symmetry rules, and at most {RULES_MAX} are allowed.")
    if len({rule.name for rule in rules}) != len(rules):
        raise SymmetryError("Two symmetry rules have the same name.")
    SymmetryRules(rules)
    return tuple(rules)


def _parse_rule(text: str) -> SymmetryRule:
    name, equals, rest = text.partition("=")
    parts = rest.rsplit(":", 2)
    if not equals or len(parts) != 3:
        raise SymmetryError(f"{text!r} is no symmetry rule: write NAME=PATTERN:BALANCE:TERM.")
    pattern, balance, term = (part.strip() for part in parts)
    found = TERM_PATTERN.fullmatch(term)
    if not BALANCE_PATTERN.fullmatch(balance):
        raise SymmetryError(f"Rule {name.strip()}: the balance must be a whole number of minor units.")
    if found is None:
        raise SymmetryError(f"Rule {name.strip()}: the term must be a number of seconds, or such as 15m, 24h or 3d.")
    rule = SymmetryRule(name.strip(), pattern, int(balance), int(found[1]) * UNIT_SECONDS[found[2]])
    check_rule(rule)
    return rule


def format_rules(rules: Iterable[SymmetryRule]) -> str:
    """Return the text that `parse_rules` reads."""
    return ";".join(f"{rule.name}={rule.pattern}:{rule.balance_minor}:{rule.term_seconds}" for rule in rules)


def merge_rules(own: Iterable[SymmetryRule]) -> SymmetryRules:
    """Return the capabilities' rules together with the installation's own, which win by name."""
    return SymmetryRules((RULES | {rule.name: rule for rule in own}).values())
