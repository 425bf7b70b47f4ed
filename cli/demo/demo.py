"""What one run of the demo knows, and the checks that it has made."""

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
    """How big the demo is."""

    intents: int = 100_000
    customers: int = 1_500
    batch_items: int = 500
    connections: int = 4
    seed: int = 2026
    settle_seconds_max: float = 150.0


@dataclass(frozen=True)
class Check:
    """Something that must hold: what was expected and what was found."""

    name: str
    expected: Any
    found: Any

    @property
    def held(self) -> bool:
        """Whether it did."""
        return bool(self.expected == self.found)


@dataclass
class Demo:
    """Filled in by the steps, in order: each relies on those before it."""

    home: Path
    cache: Path
    plan: Plan
    screen: Screen
    keep: bool = False
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    """Title of a step -> seconds."""

    ledger: Ledger = field(init=False)
    watch: PipelineWatch = field(init=False)
    prepared: Prepared = field(init=False)
    day: BusyDay = field(init=False)
    key: str = ""
    victim: tuple[int, int] = (-1, -1)
    sent: int = 0
    """Messages on payments.intents that the demo knows of."""
    send_started: float = 0.0
    expected: dict[tuple[str, str], int] = field(default_factory=dict)
    """(outcome, reason) -> journal rows that there must be."""

    def check(self, name: str, expected: Any, found: Any) -> bool:
        """Note a check; returns whether it held."""
        made = Check(name, expected, found)
        self.checks.append(made)
        return made.held

    @property
    def held(self) -> bool:
        """Whether every check so far held."""
        return all(check.held for check in self.checks)

    def expect(self, outcome: str, reason: str, count: int) -> None:
        """Count journal rows that must come."""
        where = (outcome, reason)
        self.expected[where] = self.expected.get(where, 0) + count

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        if self.ledger.api_url is None:
            raise DemoError("The API was not started: run the demo with the service api.")
        return self.ledger.api_url

    @property
    def topics(self) -> Topics:
        """The ledger's topics."""
        return Topics(self.ledger.settings.topic_prefix)


Step = Callable[[Demo], str]
"""Does its part and says in a few words what came of it; a LedgerlineError where it cannot."""
