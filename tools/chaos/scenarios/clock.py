"""The clock of the services jumps forwards and back. The clocks of Kafka, Postgres and the kernel do not.

Only the clock that Python reads jumps. libfaketime, which changes the clock of a whole process, was tried: with it
librdkafka's consumers never wake up, even if its time is right.
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
    """Restart all processes with one common clock that jumps, then restart them with the right clock."""
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
        "The clock may jump: in a lane no row is booked before the row that precedes it, and nothing else changes.",
        jump,
        own_ledger=True,
    ),
)
