"""The state of one run of the demo, and the checks that it has made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.context import Ledger
from cli.demo.busy_day import BusyDay
from cli.demo.screen import Screen
from cli.demo.watching import PipelineWatch
from domain.errors import LedgerlineError
from domain.topics import Topics
from producers.importing.importer import Prepared

TENANT: Final = "default"


class DemoError(LedgerlineError):
    """The demo cannot go on."""


@dataclass(frozen=True)
class Plan:
    """The size of the demo."""

    intents: int = 100_000
    customers: int = 1_500
    batch_items: int = 500
    connections: int = 4
    seed: int = 2026
    settle_seconds_max: float = 150.0


@dataclass(frozen=True)
class Check:
    """A comparison that must hold: the expected value and the value that was found."""

    name: str
    expected: Any
    found: Any

    @property
    def held(self) -> bool:
        """Whether the two values are equal."""
        return bool(self.expected == self.found)


@dataclass
class Demo:
    """The state of one run. The steps fill it in, in order: each step relies on the steps before it."""

    home: Path
    cache: Path
    plan: Plan
    screen: Screen
    keep: bool = False
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    """The duration of each step in seconds, by title."""

    ledger: Ledger = field(init=False)
    watch: PipelineWatch = field(init=False)
    prepared: Prepared = field(init=False)
    day: BusyDay = field(init=False)
    key: str = ""
    victim: tuple[int, int] = (-1, -1)
    sent: int = 0
    """The number of messages on payments.intents that the demo has sent."""
    send_started: float = 0.0
    expected: dict[tuple[str, str], int] = field(default_factory=dict)
    """The expected number of journal rows by (outcome, reason)."""

    def check(self, name: str, expected: Any, found: Any) -> bool:
        """Record a check, and return whether it held."""
        made = Check(name, expected, found)
        self.checks.append(made)
        return made.held

    @property
    def held(self) -> bool:
        """Whether every check so far held."""
        return all(check.held for check in self.checks)

    def expect(self, outcome: str, reason: str, count: int) -> None:
        """Add to the number of journal rows that are expected."""
        where = (outcome, reason)
        self.expected[where] = self.expected.get(where, 0) + count

    @property
    def api_url(self) -> str:
        """The URL of the API; raises DemoError if there is none."""
        if self.ledger.api_url is None:
            raise DemoError("The API was not started: run the demo with the service api.")
        return self.ledger.api_url

    @property
    def topics(self) -> Topics:
        """The ledger's topics."""
        return Topics(self.ledger.settings.topic_prefix)


Step = Callable[[Demo], str]
"""One step of the demo: it returns its result in a few words, or raises LedgerlineError if it fails."""
