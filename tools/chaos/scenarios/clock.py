"""The clock of the services jumps, forwards and back; Kafka's, Postgres' and the kernel's do not.

It is the clock that Python reads. libfaketime, which shows all of a process another clock, was tried: under it
librdkafka's consumers never wake up, with the right time too.
"""

from typing import Final

from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.service import CLOCK
from tools.chaos.trial import Trial

JUMPS_SECONDS: Final = (3600, -7200, 0, -90, 30 * 86_400)
POSTED_BETWEEN: Final = 200


def _set(trial: Trial, seconds: int) -> None:
    for instance in trial.fleet.instances:
        draft = instance.orders / f".{CLOCK}"
        draft.write_text(str(seconds))
        draft.replace(instance.orders / CLOCK)


def jump(trial: Trial) -> None:
    """Everything is started again under a clock that jumps together, and then under the right one."""
    _set(trial, 0)
    trial.fleet.stop_all(trial.fleet.instances)
    for instance in trial.fleet.instances:
        instance.start()
    trial.fleet.wait_ready()
    for seconds in JUMPS_SECONDS:
        trial.let_flow(POSTED_BETWEEN)
        trial.say(f"the services' clock is wrong by {seconds:+,} s")
        _set(trial, seconds)
    trial.let_flow(POSTED_BETWEEN)
    trial.say("each process is started again, with the right clock")
    trial.fleet.stop_all(trial.fleet.instances)
    for instance in trial.fleet.instances:
        instance.disarm()
        instance.start()


SCENARIOS: Final = (
    Scenario(
        "clock-jumps",
        "The clock may jump: no row is booked before the one that precedes it in its lane, and nothing else minds.",
        jump,
        own_ledger=True,
    ),
)
