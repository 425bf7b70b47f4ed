"""Random faults from the seed, several at a time, to find combinations that no other scenario tests."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from runtime.faults import FAULT_POINTS
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

FAULTS: Final = 16
PAUSE_SECONDS_MAX: Final = 2.0
SCHEDULES: Final = 8
OCCURRENCES: Final = 10


def _arm(trial: Trial, service: str) -> None:
    instance = trial.pick(service)
    point = trial.random.choice(sorted(FAULT_POINTS[service]))
    trial.say(f"{instance.label} is to die at {point!r}")
    instance.arm(point)


def _kill(trial: Trial, service: str) -> None:
    instance = trial.pick(service)
    trial.say(f"kill -9 of {instance.label}")
    instance.kill()


def _cut(trial: Trial, way: str) -> None:
    proxies = trial.deployment.kafka if way == "Kafka" else trial.deployment.postgres
    group = trial.random.choice(sorted(proxies))
    trial.say(f"connections between {group} and {way} are reset")
    proxies[group].cut()


def _lose(trial: Trial, before: bool) -> None:
    trial.say("the next COMMIT is lost" if before else "the answer to the next COMMIT is lost")
    trial.deployment.postgres["posting"].cut_at(b"COMMIT", before=before)


def _crash(trial: Trial, name: str) -> None:
    part = trial.deployment.stack.parts[name]
    trial.say(f"kill -9 of {part.name}")
    part.kill()
    part.start()


_CHOICES: Final[tuple[tuple[int, Callable[[Trial], None]], ...]] = (
    (4, partial(_arm, service="posting")),
    (2, partial(_arm, service="relay")),
    (1, partial(_arm, service="api")),
    (1, partial(_arm, service="worker")),
    (2, partial(_kill, service="posting")),
    (1, partial(_kill, service="api")),
    (1, partial(_kill, service="relay")),
    (1, partial(_kill, service="worker")),
    (1, partial(_kill, service="reconciliation")),
    (1, partial(_kill, service="audit")),
    (2, partial(_cut, way="Kafka")),
    (2, partial(_cut, way="Postgres")),
    (2, partial(_lose, before=True)),
    (2, partial(_lose, before=False)),
    (1, partial(_crash, name="postgres")),
    (1, partial(_crash, name="kafka")),
)


def rage(trial: Trial) -> None:
    """Cause one fault after the other, with pauses too short for recovery."""
    trial.let_flow()
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    weights = [weight for weight, _ in _CHOICES]
    for _ in range(FAULTS):
        (_, fault) = trial.random.choices(_CHOICES, weights)[0]
        fault(trial)
        # Wait for a random time, not for a state.
        threading.Event().wait(trial.random.uniform(0, PAUSE_SECONDS_MAX))
    for instance in trial.fleet.instances:
        instance.disarm()
    for proxy in trial.deployment.proxies:
        proxy.pass_through()


SCENARIOS: Final = (Scenario("storm", "All of these faults may happen at once.", rage),)
