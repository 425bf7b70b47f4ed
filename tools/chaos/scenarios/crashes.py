"""kill -9 of a posting worker or an API process, and a worker that sleeps past its session."""

import os
import signal
from functools import partial
from typing import Final

from runtime.faults import FAULT_POINTS
from tools.chaos.instance import ChaosError
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

TAKEN_OVER_SECONDS_MAX: Final = 60.0


def kill_worker(point: str, trial: Trial) -> None:
    """The first worker that comes to the point dies there."""
    trial.let_flow()
    trial.strike(trial.workers(), point)


def freeze_worker(point: str, trial: Trial) -> None:
    """A worker stops at the point for longer than its session; its lanes go to the other; then it wakes up."""
    trial.let_flow()
    frozen = trial.strike([trial.pick("posting")], point, "stop")  # one alone: the other is to take over
    pid = frozen.pid
    if pid is None:
        raise ChaosError(f"{frozen.label} is gone in place of frozen.")
    before = trial.ledger.next_offsets()
    try:
        # It had at least one lane, so all lanes move again only when another worker has taken that over.
        trial.wait_until(
            lambda: all(offset > before[lane] for lane, offset in trial.ledger.next_offsets().items()),
            "another worker posts the frozen one's lanes",
            TAKEN_OVER_SECONDS_MAX,
        )
        trial.say("the other worker has taken its lanes over; it wakes up")
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_api(trial: Trial) -> None:
    """An API process dies when Kafka has the intents and the client has no answer."""
    for _ in range(2):
        trial.let_flow()
        trial.strike(trial.fleet["api"], "acknowledged")


SCENARIOS: Final = (
    *(
        Scenario(
            f"worker-killed-{point.replace('_', '-')}",
            f"A posting worker may die at any moment, also when {meaning}.",
            partial(kill_worker, point),
        )
        for point, meaning in FAULT_POINTS["posting"].items()
    ),
    Scenario(
        "worker-frozen",
        "A worker that slept past its session posts nothing of the lanes that another has taken over.",
        partial(freeze_worker, "decoded"),
    ),
    Scenario(
        "worker-frozen-in-transaction",
        "A worker that sleeps in the midst of its transaction holds its lanes for seconds, and posts nothing later.",
        partial(freeze_worker, "before_commit"),
    ),
    Scenario(
        "api-killed-before-answer",
        "A client that got no answer retries with its key, through any API process, and the intent is posted once.",
        kill_api,
    ),
)
