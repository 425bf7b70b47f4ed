"""The worker of the capabilities is killed, frozen and cut off while it posts schedules."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from runtime.faults import FAULT_POINTS
from tools.chaos.instance import ChaosError, Instance
from tools.chaos.scenarios.network import trouble
from tools.chaos.scenarios.outages import AWAY
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

SCHEDULES: Final = 8
OCCURRENCES: Final = 20
"""Enough to outlast each fault: the occurrences of a schedule are posted one after the other, some two a second."""
FROZEN_SECONDS: Final = 25.0
"""Longer than a consumer's session (10 s), and than Postgres bears with a transaction (15 s) or a turn (20 s)."""
TAKEN_OVER_SECONDS_MAX: Final = 90.0


def kill_worker(point: str, trial: Trial) -> None:
    """Kill the worker at the fault point, between two occurrences of each schedule."""
    trial.let_flow(100)
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    trial.let_occur(SCHEDULES)
    trial.strike(trial.fleet["worker"], point)


def freeze_alone(trial: Trial) -> None:
    """Freeze the only worker past its session, and wake it."""
    trial.let_flow(100)
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    trial.let_occur(SCHEDULES)
    worker = trial.pick("worker")
    with trial.fleet.frozen(worker):
        trial.say(f"{worker.label} is frozen for {FROZEN_SECONDS:.0f} s")
        # A fixed time is right here: the fault is defined by its length.
        threading.Event().wait(FROZEN_SECONDS)
    trial.say("it wakes up")
    trial.let_occur(SCHEDULES)


def freeze_beside_another(point: str, trial: Trial) -> None:
    """Freeze a worker at the fault point until another has taken all of its parts over; then wake it."""
    trial.let_flow(100)
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    with _second_worker(trial):
        frozen = trial.strike(trial.fleet["worker"], point, "stop")
        pid = frozen.pid
        if pid is None:
            raise ChaosError(f"{frozen.label} ended instead of being frozen.")
        try:
            trial.let_occur(3 * SCHEDULES, TAKEN_OVER_SECONDS_MAX)
            trial.say("the other worker has taken over; the frozen one wakes up")
        finally:
            os.kill(pid, signal.SIGCONT)
        trial.let_occur(SCHEDULES)


@contextmanager
def _second_worker(trial: Trial) -> Iterator[Instance]:
    """Run a second worker within the block. The first one has the parts that only one worker runs at a time."""
    second = trial.deployment.instance(trial.ledger, "worker", 1)

    def is_ready() -> bool:
        second.tick()
        return second.is_ready

    second.start()
    try:
        trial.wait_until(is_ready, "a second worker is ready")
        trial.say("a second worker stands by")
        yield second
    finally:
        second.stop()


def cut_off(part: str, trial: Trial) -> None:
    """Make trouble between the worker and Kafka or Postgres."""
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    trouble([("worker", part)], trial)


def kill_registry(trial: Trial) -> None:
    """Kill the registry, and the worker, which needs it at its start."""
    registry = trial.deployment.stack.registry
    trial.let_flow(100)
    trial.add_schedules(SCHEDULES, OCCURRENCES)
    trial.let_occur(SCHEDULES)
    worker = trial.pick("worker")
    trial.say("kill -9 of the registry and of the worker")
    registry.kill()
    worker.kill()
    asked = worker.text_of_logs().count(AWAY)
    trial.wait_until(lambda: worker.text_of_logs().count(AWAY) > asked + 2, "the new worker asks for schemas in vain")
    registry.start()
    trial.say("the registry is back")
    trial.let_occur(SCHEDULES)


SCENARIOS: Final = (
    *(
        Scenario(
            f"capability-worker-killed-{point}",
            f"The worker may die when {meaning}: each occurrence of a schedule is posted once.",
            partial(kill_worker, point),
        )
        for point, meaning in FAULT_POINTS["worker"].items()
    ),
    Scenario(
        "capability-worker-frozen",
        "The worker may be frozen past its session, and alone: it goes on with each schedule where it stood.",
        freeze_alone,
    ),
    *(
        Scenario(
            f"capability-worker-frozen-{point}",
            f"The worker may be frozen when {FAULT_POINTS['worker'][point]}, until another has taken over: each event"
            " comes once.",
            partial(freeze_beside_another, point),
        )
        for point in ("handled", "acknowledged", "produced")
    ),
    *(
        Scenario(
            f"capability-worker-{part}",
            f"Connections between the worker and {name} may be cut, slow, refused or silent: no occurrence is lost.",
            partial(cut_off, part),
        )
        for part, name in (("kafka", "Kafka"), ("postgres", "Postgres"))
    ),
    Scenario(
        "capability-worker-registry",
        "The registry may be away while the worker starts: the occurrences are posted when it is back.",
        kill_registry,
    ),
)
