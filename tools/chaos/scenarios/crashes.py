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
    """Kill the first worker that comes to the fault point."""
    trial.let_flow()
    trial.strike(trial.workers(), point)


def freeze_worker(point: str, trial: Trial) -> None:
    """Freeze a worker at the fault point until its session expires and the other worker has its lanes; then wake it."""
    trial.let_flow()
    frozen = trial.strike([trial.pick("posting")], point, "stop")  # only one: the other must take over
    pid = frozen.pid
    if pid is None:
        raise ChaosError(f"{frozen.label} ended instead of being frozen.")
    before = trial.ledger.next_offsets()
    try:
        # The frozen worker had at least one lane, so all lanes move only after another worker has taken it over.
        trial.wait_until(
            lambda: all(offset > before[lane] for lane, offset in trial.ledger.next_offsets().items()),
            "another worker posts the frozen one's lanes",
            TAKEN_OVER_SECONDS_MAX,
        )
        trial.say("the other worker has taken its lanes over; it wakes up")
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_api(trial: Trial) -> None:
    """Kill an API process after Kafka has the intents and before the client has an answer, twice."""
    for _ in range(2):
        trial.let_flow()
        trial.strike(trial.fleet["api"], "acknowledged")


SCENARIOS: Final = (
    *(
        Scenario(
            f"worker-killed-{point.replace('_', '-')}",
            f"A posting worker may die when {meaning}.",
            partial(kill_worker, point),
        )
        for point, meaning in FAULT_POINTS["posting"].items()
    ),
    Scenario(
        "worker-frozen",
        "A worker that was frozen past its session posts nothing in lanes that another worker has taken over.",
        partial(freeze_worker, "decoded"),
    ),
    Scenario(
        "worker-frozen-in-transaction",
        "A worker that is frozen within its transaction holds its lanes for seconds, and posts nothing later.",
        partial(freeze_worker, "before_commit"),
    ),
    Scenario(
        "api-killed-before-answer",
        "If a client got no answer and retries with its key, through any API process, the intent is posted once.",
        kill_api,
    ),
)
