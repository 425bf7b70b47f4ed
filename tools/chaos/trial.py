"""One run of a scenario: the parts that it may break, its report, and the time that the ledger took to recover."""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ops.embedded.process import wait_until
from tools.chaos.deployment import Deployment
from tools.chaos.instance import ChaosError, Fleet, Instance
from tools.chaos.ledger import TENANT, ChaosLedger, Lanes
from tools.chaos.load import Load
from tools.chaos.load.schedules import add_schedules
from tools.chaos.oracle import Planted, Scheduled

FLOW_SECONDS_MAX: Final = 90.0
QUIET_SECONDS_MAX: Final = 180.0


class Recovery(NamedTuple):
    """Seconds from the end of the fault until new intents reached each step."""

    acknowledged_seconds: float
    """Until a client got a 202."""
    posted_seconds: float
    """Until the intents received by then were posted."""
    proved_seconds: float
    """Until the same intents were relayed, reconciled and audited."""


@dataclass
class Trial:
    """The argument of a scenario. The scenario returns when its fault is over; then the runner measures and judges."""

    deployment: Deployment
    ledger: ChaosLedger
    fleet: Fleet
    load: Load
    random: random.Random
    report: Callable[[str], None]
    planted: list[Planted] = field(default_factory=list)
    """Breaks that the scenario planted and that the agents must find."""
    scheduled: list[Scheduled] = field(default_factory=list)
    """Schedules that the scenario made, and whose occurrences must all be posted in the end."""

    def workers(self) -> list[Instance]:
        """Return the posting workers."""
        return self.fleet["posting"]

    def pick(self, name: str) -> Instance:
        """Choose one of the service's instances by the seed."""
        return self.random.choice(self.fleet[name])

    def say(self, step: str) -> None:
        """Report a step of the scenario."""
        self.report(step)

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float = FLOW_SECONDS_MAX) -> None:
        """Wait for a condition. Raise ChaosError if it does not hold in time."""
        if not wait_until(lambda: bool(condition()), timeout_seconds=seconds):
            raise ChaosError(f"Not within {seconds:.0f} s: {what}.")

    def posted(self) -> int:
        """Return how many offsets have a journal row; -1 while Kafka or Postgres cannot be reached."""
        progress = self.ledger.progress()
        return -1 if progress is None else sum(progress.posted.values())

    def let_flow(self, intents: int = 200) -> None:
        """Wait until so many more intents are posted."""
        aim = max(self.posted(), 0) + intents
        self.wait_until(lambda: self.posted() >= aim, f"{intents} more intents are posted")

    def add_schedules(self, schedules: int, occurrences: int) -> None:
        """Make schedules whose occurrences are all due already; the worker posts those of one schedule one by one."""
        urls = [instance.url for instance in self.fleet["api"]]
        made = add_schedules(
            lambda: urls, self.ledger.api_key, TENANT, self.random, schedules=schedules, occurrences=occurrences
        )
        self.scheduled += made
        self.say(f"{schedules} schedules of {occurrences} occurrences are due")

    def let_occur(self, occurrences: int, seconds: float = FLOW_SECONDS_MAX) -> None:
        """Wait until so many more occurrences of schedules count as posted."""
        aim = max(self.ledger.occurred(), 0) + occurrences
        what = f"{occurrences} more occurrences of schedules are posted"
        self.wait_until(lambda: self.ledger.occurred() >= aim, what, seconds)

    def strike(self, instances: Iterable[Instance], point: str, action: str = "kill") -> Instance:
        """Order these instances to act at a fault point, and wait for the first that comes there."""
        armed = list(instances)
        for instance in armed:
            instance.arm(point, action)
        fired = self.fleet.wait_fired(armed, point)
        self.say(f"{fired.label}: {action} at {point!r}")
        return fired

    def recovery(self) -> Recovery:
        """Measure the time from now, the end of the fault, until new intents have passed every step."""
        began = time.monotonic()
        before = self.load.counts["acknowledged"]
        self.wait_until(lambda: self.load.counts["acknowledged"] > before, "a client gets a 202")
        acknowledged = time.monotonic() - began
        aim: Lanes = {}

        def posted() -> bool:
            progress = self.ledger.progress()
            if progress is None:
                return False
            if not aim:
                aim.update(progress.received)
            return progress.has_posted(aim)

        self.wait_until(posted, "what was taken is posted")
        posted_seconds = time.monotonic() - began

        def proved() -> bool:
            progress = self.ledger.progress()
            return progress is not None and progress.has_proved(aim)

        self.wait_until(proved, "what was posted is proved")
        return Recovery(acknowledged, posted_seconds, time.monotonic() - began)

    def wait_quiet(self) -> None:
        """Wait until every occurrence is posted and told, and every step has reached the end of the intents."""
        if self.scheduled:
            self.wait_until(self.ledger.is_worker_done, "every occurrence is posted and told", QUIET_SECONDS_MAX)

        def quiet() -> bool:
            progress = self.ledger.progress()
            return progress is not None and progress.is_quiet

        self.wait_until(quiet, "everything is posted, relayed, reconciled and audited", QUIET_SECONDS_MAX)
