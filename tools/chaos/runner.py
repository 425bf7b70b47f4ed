"""A run: scenarios in the order that the seed gives, each under load, measured and judged by the oracle."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ops.embedded import EmbeddedError
from tools.chaos.deployment import Deployment
from tools.chaos.instance import ChaosError, Fleet
from tools.chaos.ledger import TENANT, ChaosLedger
from tools.chaos.load import Load, LoadError
from tools.chaos.oracle import Acknowledged, Place, Scheduled, Verdict, judge
from tools.chaos.scenarios.catalog import KINDS, REGRESSIONS
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Recovery, Trial

INTENTS_PER_SECOND: Final = 250.0
ANSWERED_SECONDS_MAX: Final = 60.0
# The oracle reads a ledger from its first offset each time: beyond this size a fresh ledger is cheaper.
LEDGER_OFFSETS_MAX: Final = 25_000


@dataclass
class Result:
    """The result of one scenario."""

    scenario: str
    seed: str
    """The seed and the scenario's name are enough to repeat the scenario."""
    seconds: float = 0.0
    recovery: Recovery | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """The counts of the load and of the oracle."""
    faults: list[str] = field(default_factory=list)
    """The faults found; empty if the scenario passed."""
    steps: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return not self.faults

    def document(self) -> dict[str, Any]:
        """Return the result for --json."""
        recovery = None if self.recovery is None else self.recovery._asdict()
        return asdict(self) | {"recovery": recovery, "passed": self.passed}


def schedule(scenarios: Sequence[Scenario], seed: str, minutes: float | None) -> Iterator[tuple[Scenario, str]]:
    """Yield scenarios, each with a seed: one pass over all of them, or passes until the time is up.

    Scenarios that once found a bug come first, with the seed that found it.
    """
    deadline = None if minutes is None else time.monotonic() + minutes * 60
    known = {scenario.name: scenario for scenario in scenarios}
    for regression in REGRESSIONS:
        if regression.scenario in known and len(scenarios) > 1:
            yield known[regression.scenario], regression.seed
    number = 0
    while number == 0 or (deadline is not None and time.monotonic() < deadline):
        for scenario in in_order(scenarios, f"{seed}/{number}"):
            if deadline is not None and time.monotonic() > deadline:
                return
            yield scenario, f"{seed}/{number}"
        number += 1


def choose_one_of_each_kind(seed: str) -> list[Scenario]:
    """Choose one scenario of each kind by the seed, to try each kind of fault in a third of the time."""
    draw = random.Random(f"{seed}/kinds")  # noqa: S311 - a schedule, no secret
    return [draw.choice(kind) for kind in KINDS.values()]


def in_order(scenarios: Sequence[Scenario], seed: str) -> list[Scenario]:
    """Return the scenarios shuffled by the seed; those that need their own ledger come last."""
    shuffled = list(scenarios)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a schedule, no secret
    return sorted(shuffled, key=lambda scenario: scenario.own_ledger)


class Runner:
    """A runner of scenarios, one after the other. It keeps one ledger as long as that ledger is usable."""

    def __init__(self, deployment: Deployment, report: Callable[[str], None]) -> None:
        self._deployment = deployment
        self._report = report
        self._ledger: ChaosLedger | None = None
        self._fleet: Fleet | None = None
        self._acknowledged: list[Acknowledged] = []
        self._scheduled: list[Scheduled] = []

    def close(self) -> None:
        """Stop the processes of the current ledger, and forget the ledger."""
        if self._fleet is not None:
            self._fleet.stop()
        self._ledger, self._fleet, self._acknowledged, self._scheduled = None, None, [], []

    def run(self, scenario: Scenario, seed: str) -> Result:
        """Run one scenario. Errors of the harness, the load and the parts go into the result."""
        result = Result(scenario.name, seed)
        began = time.monotonic()

        def report(step: str) -> None:
            line = f"{time.monotonic() - began:6.1f} s  {step}"
            result.steps.append(line)
            self._report(line)

        try:
            if scenario.own_ledger:
                self.close()
            ledger, fleet = self._ready_ledger()
            draw = random.Random(f"{seed}/{scenario.name}")  # noqa: S311 - a schedule, no secret
            load = self._load(ledger, fleet, draw)
            trial = Trial(self._deployment, ledger, fleet, load, draw, report)
            began = time.monotonic()
            self._run(scenario, trial, result)
        except (ChaosError, LoadError, EmbeddedError) as error:
            result.faults.append(f"{type(error).__name__}: {error}")
        finally:
            result.seconds = time.monotonic() - began
            self._heal()
            if scenario.own_ledger or not result.passed or result.counts.get("offsets", 0) > LEDGER_OFFSETS_MAX:
                self.close()
        return result

    def _run(self, scenario: Scenario, trial: Trial, result: Result) -> None:
        trial.load.start()
        try:
            trial.let_flow()
            scenario.fault(trial)
            if scenario.recovers:
                result.recovery = trial.recovery()
        finally:
            trial.load.finish(ANSWERED_SECONDS_MAX if scenario.recovers else 0.0)
            result.counts |= {f"load {name}": count for name, count in trial.load.counts.items()}
        if not scenario.recovers:
            return
        self._acknowledged += trial.load.acknowledged
        self._scheduled += trial.scheduled
        trial.wait_quiet()
        scenario.afterwards(trial)
        verdict = self._judge(trial)
        result.counts |= verdict.counts
        result.faults += [f"{fault.check}: {fault.where}: {fault.detail}" for fault in verdict.faults]

    def _judge(self, trial: Trial) -> Verdict:
        endpoints = trial.ledger.endpoints
        place = Place(endpoints.kafka_bootstrap, trial.ledger.dsn, endpoints.registry_url, trial.ledger.topics.prefix)
        return judge(place, self._acknowledged, trial.planted, self._scheduled)

    def _ready_ledger(self) -> tuple[ChaosLedger, Fleet]:
        if self._ledger is None or self._fleet is None:
            self._ledger = self._deployment.open_ledger()
            self._fleet = self._deployment.fleet(self._ledger)
            self._fleet.start()
        self._fleet.wait_ready()
        return self._ledger, self._fleet

    def _load(self, ledger: ChaosLedger, fleet: Fleet, draw: random.Random) -> Load:
        return Load(
            api_urls=lambda: [instance.url for instance in fleet["api"]],
            api_key=ledger.api_key,
            kafka=ledger.endpoints.kafka,
            topics_prefix=ledger.topics.prefix,
            registry=ledger.endpoints.registry,
            seed=draw.getrandbits(32),
            tenant=TENANT,
            intents_per_second=INTENTS_PER_SECOND,
        )

    def _heal(self) -> None:
        """Repair everything that an aborted scenario left broken."""
        for proxy in self._deployment.proxies:
            proxy.pass_through()
        for part in self._deployment.stack.parts.values():
            part.start()
        for instance in self._fleet.instances if self._fleet is not None else ():
            instance.disarm()


def run_all(
    deployment: Deployment, scenarios: Iterable[tuple[Scenario, str]], report: Callable[[str], None]
) -> Iterator[Result]:
    """Run the scheduled scenarios, one after the other."""
    runner = Runner(deployment, report)
    try:
        for scenario, seed in scenarios:
            report(f"--- {scenario.name} (seed {seed}): {scenario.promise}")
            yield runner.run(scenario, seed)
    finally:
        runner.close()
